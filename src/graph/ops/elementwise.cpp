#include "graph/ops/elementwise.h"

#include <algorithm>
#include <unordered_map>

#include "graph/ops/support.h"

namespace sinter {
namespace {

/// A formula as a list of steps over slots: arguments, then constants, then one slot a step. Each slot holds a block of values,
/// so that walking the formula costs nothing beside the arithmetic.
struct Steps {
  struct Step {
    Prim prim;
    int inputs[3];
  };
  int arguments = 0;
  std::vector<double> constants;
  std::vector<Step> steps;
  int result = 0;
};

struct Flattener {
  Steps out;
  std::unordered_map<const Expr::Term*, int> constants, steps;
  void find_constants(const Expr& e) {
    if (e->kind == Expr::Term::constant && constants.try_emplace(e.get(), int(out.constants.size())).second)
      out.constants.push_back(e->value);
    for (const Expr& input : e->inputs) find_constants(input);
  }
  int slot(const Expr& e) {
    if (e->kind == Expr::Term::argument) return e->index;
    if (e->kind == Expr::Term::constant) return out.arguments + constants.at(e.get());
    if (auto at = steps.find(e.get()); at != steps.end()) return at->second;
    Steps::Step step{e->prim, {0, 0, 0}};
    for (size_t i = 0; i < e->inputs.size(); ++i) step.inputs[i] = slot(e->inputs[i]);
    out.steps.push_back(step);
    return steps[e.get()] = out.arguments + int(out.constants.size() + out.steps.size()) - 1;
  }
};

Steps flatten(const Formula& formula) {
  Flattener f;
  f.out.arguments = formula.arguments;
  f.find_constants(formula.body);
  f.out.result = f.slot(formula.body);
  return f.out;
}

struct ElementwiseOp : OpDef {
  const Formula* formula = nullptr;
  Steps steps;
  std::vector<Expr> derivatives;
};
const ElementwiseOp& elementwise_op(const OpDef& op) { return static_cast<const ElementwiseOp&>(op); }

constexpr int64_t kBlock = 256;

void run_step(Prim prim, const double* a, const double* b, const double* c, double* out) {
  switch (prim) {
    case Prim::add:
      for (int64_t i = 0; i < kBlock; ++i) out[i] = a[i] + b[i];
      return;
    case Prim::subtract:
      for (int64_t i = 0; i < kBlock; ++i) out[i] = a[i] - b[i];
      return;
    case Prim::multiply:
      for (int64_t i = 0; i < kBlock; ++i) out[i] = a[i] * b[i];
      return;
    case Prim::divide:
      for (int64_t i = 0; i < kBlock; ++i) out[i] = a[i] / b[i];
      return;
    default:
      for (int64_t i = 0; i < kBlock; ++i) out[i] = evaluate(prim, a[i], b[i], c[i]);
  }
}

Tensor reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  const Steps& steps = elementwise_op(*n.op).steps;
  Tensor out = result_of(n, bindings);
  int64_t count = out.count();
  in_parallel((count + kBlock - 1) / kBlock, 64, [&](int64_t begin, int64_t end) {
    size_t first_step = size_t(steps.arguments) + steps.constants.size();
    std::vector<double> slots((first_step + steps.steps.size()) * size_t(kBlock));
    auto slot = [&](size_t i) { return slots.data() + i * size_t(kBlock); };
    for (size_t i = 0; i < steps.constants.size(); ++i)
      std::fill_n(slot(size_t(steps.arguments) + i), kBlock, steps.constants[i]);
    for (int64_t block = begin; block < end; ++block) {
      int64_t at = block * kBlock, size = std::min(kBlock, count - at);
      for (size_t i = 0; i < inputs.size(); ++i)
        convert(inputs[i].data() + at * byte_size(inputs[i].dtype()), inputs[i].dtype(), slot(i), DType::f64, size);
      for (size_t i = 0; i < steps.steps.size(); ++i) {
        const auto& step = steps.steps[i];
        run_step(step.prim, slot(size_t(step.inputs[0])), slot(size_t(step.inputs[1])), slot(size_t(step.inputs[2])),
                 slot(first_step + i));
      }
      convert(slot(size_t(steps.result)), DType::f64, out.data() + at * byte_size(out.dtype()), out.dtype(), size);
    }
  });
  return out;
}

Type infer(const Node& n) {
  expect_inputs(n, size_t(elementwise_op(*n.op).formula->arguments));
  expect_same_dtype(n);
  for (Value v : n.inputs)
    if (v.shape() != n.inputs[0].shape())
      fail(Code::InvalidArgument, "inputs must have one shape, not {} and {}", text(n.inputs[0].shape()), text(v.shape()));
  return n.inputs[0]->type;
}

/// The op that computes one primitive.
std::string_view formula_name(Prim prim) {
  switch (prim) {
    case Prim::less:
      return "less_than";
    case Prim::select:
      return "where";
    case Prim::negate:
      return "negative";
    case Prim::exp:
      return "exponential";
    case Prim::log:
      return "logarithm";
    case Prim::sqrt:
      return "square_root";
    case Prim::rsqrt:
      return "reciprocal_root";
    case Prim::sin:
      return "sine";
    case Prim::cos:
      return "cosine";
    case Prim::tanh:
      return "tangent_hyperbolic";
    case Prim::erf:
      return "error_function";
    case Prim::abs:
      return "absolute";
    default:
      return name(prim);
  }
}

using Emitted = std::unordered_map<const Expr::Term*, Value>;
Value emit(const Expr& e, const Node& n, Emitted& seen) {
  if (e->kind == Expr::Term::argument) return n.inputs[size_t(e->index)];
  if (auto at = seen.find(e.get()); at != seen.end()) return at->second;
  if (e->kind == Expr::Term::constant) return seen[e.get()] = broadcast(scalar(*n.graph, e->value, n.type.dtype), n.type.shape);
  std::vector<Value> inputs;
  for (const Expr& input : e->inputs) inputs.push_back(emit(input, n, seen));
  return seen[e.get()] = elementwise(formula_name(e->prim), std::move(inputs));
}

std::vector<Value> gradient(const Node& n, Value output_gradient) {
  std::vector<Value> gradients;
  Emitted seen;
  for (const Expr& derivative : elementwise_op(*n.op).derivatives) {
    auto is = [&](double value) { return derivative->kind == Expr::Term::constant && derivative->value == value; };
    gradients.push_back(is(0)    ? Value()
                        : is(1)  ? output_gradient
                        : is(-1) ? -output_gradient
                                 : output_gradient * emit(derivative, n, seen));
  }
  return gradients;
}

std::vector<Sample> samples_of(std::string_view formula, int arguments) {
  // Some functions need positive arguments, some have no slope.
  bool positive = formula == "divide" || formula == "logarithm" || formula == "power" || formula == "reciprocal_root" ||
                  formula == "square_root";
  bool smooth = formula != "less_than" && formula != "floor";
  std::vector<Sample> samples;
  for (const Shape& shape : {Shape{2, 3}, Shape{}, Shape{3, 1, 701}}) {
    Sample sample{std::vector<Type>(size_t(arguments), floats(shape)), {}, positive ? 0.5 : -3.0, 3.0, smooth};
    sample.build = [formula](Inputs v) { return elementwise(formula, {v.begin(), v.end()}); };
    samples.push_back(sample);
  }
  return samples;
}

std::vector<Refusal> refusals_of(std::string_view formula, int arguments) {
  if (arguments == 1)
    return {{{floats({2}), floats({2})},
             [formula](Inputs v) {
               return elementwise(formula, {v[0], v[1]});
             },
             "takes 1 inputs, not 2"}};
  auto build = [formula, arguments](Inputs v) {
    std::vector<Value> inputs{v[0], v[1]};
    if (arguments == 3) inputs.push_back(v[1]);
    return elementwise(formula, inputs);
  };
  return {{{floats({4, 3}), floats({2, 3})}, build, "the sizes 4 and 2 of axis -2 do not broadcast"},
          {{floats({3}), {DType::f16, {3}}}, build, "one dtype, not f32 and f16"}};
}

// Functions without state, as the record wants them: one pair for each formula.
struct Examples {
  std::vector<Sample> (*samples)();
  std::vector<Refusal> (*refusals)();
};
#define SINTER_EXAMPLES(name, count) {[] { return samples_of(#name, count); }, [] { return refusals_of(#name, count); }},
#define SINTER_FORMULA1(name, ...) SINTER_EXAMPLES(name, 1)
#define SINTER_FORMULA2(name, ...) SINTER_EXAMPLES(name, 2)
#define SINTER_FORMULA3(name, ...) SINTER_EXAMPLES(name, 3)
constexpr Examples kExamples[] = {
#include "graph/formulas.list"
};
#undef SINTER_FORMULA1
#undef SINTER_FORMULA2
#undef SINTER_FORMULA3
#undef SINTER_EXAMPLES

std::vector<ElementwiseOp> make_ops() {
  std::vector<ElementwiseOp> ops;
  for (const Formula& formula : formulas()) {
    ElementwiseOp op;
    op.name = formula.name;
    op.summary = "Elementwise.";
    op.infer = infer;
    op.reference = reference;
    op.gradient = gradient;
    op.samples = kExamples[ops.size()].samples;
    op.refusals = kExamples[ops.size()].refusals;
    op.formula = &formula;
    op.steps = flatten(formula);
    for (int i = 0; i < formula.arguments; ++i) op.derivatives.push_back(derivative(formula.body, i));
    ops.push_back(std::move(op));
  }
  return ops;
}
const std::vector<ElementwiseOp>& ops() {
  static const std::vector<ElementwiseOp> list = make_ops();
  return list;
}

Shape common_shape(std::string_view op, std::span<const Value> values) {
  size_t rank = 0;
  for (Value v : values) rank = std::max(rank, v.shape().size());
  Shape shape(rank, Dim(1));
  for (Value v : values) {
    size_t skipped = rank - v.shape().size();
    for (size_t i = 0; i < v.shape().size(); ++i) {
      Dim& common = shape[skipped + i];
      const Dim& dim = v.shape()[i];
      if (dim == common || dim == Dim(1)) continue;
      if (common != Dim(1))
        fail(Code::InvalidArgument, "{}({}): the sizes {} and {} of axis {} do not broadcast", op, types_text(values),
             common.text(), dim.text(), int64_t(i) - int64_t(v.shape().size()));
      common = dim;
    }
  }
  return shape;
}
}  // namespace

std::vector<const OpDef*> elementwise_ops() {
  std::vector<const OpDef*> list;
  for (const ElementwiseOp& op : ops()) list.push_back(&op);
  return list;
}

bool is_elementwise(const OpDef& op) { return op.infer == infer; }
const Formula& formula_of(const OpDef& op) {
  SINTER_ASSERT(is_elementwise(op));
  return *elementwise_op(op).formula;
}

Value elementwise(std::string_view formula, std::vector<Value> arguments) {
  const OpDef* op = find_op(formula);
  if (!op || !is_elementwise(*op)) fail(Code::InvalidArgument, "there is no elementwise function '{}'", formula);
  SINTER_ASSERT(!arguments.empty());
  Shape shape = common_shape(formula, arguments);
  for (Value& v : arguments) v = broadcast(v, shape);
  return arguments[0]->graph->add(*op, std::move(arguments));
}

Value operator+(Value a, Value b) { return elementwise("add", {a, b}); }
Value operator-(Value a, Value b) { return elementwise("subtract", {a, b}); }
Value operator*(Value a, Value b) { return elementwise("multiply", {a, b}); }
Value operator/(Value a, Value b) { return elementwise("divide", {a, b}); }
Value operator+(Value a, double b) { return a + scalar(*a->graph, b, a.dtype()); }
Value operator*(Value a, double b) { return a * scalar(*a->graph, b, a.dtype()); }
Value operator-(Value a, double b) { return a - scalar(*a->graph, b, a.dtype()); }
Value operator-(Value a) { return elementwise("negative", {a}); }
Value silu(Value x) { return elementwise("silu", {x}); }
Value gelu(Value x) { return elementwise("gelu", {x}); }
Value gelu_tanh(Value x) { return elementwise("gelu_tanh", {x}); }
Value quick_gelu(Value x) { return elementwise("quick_gelu", {x}); }
Value square(Value x) { return elementwise("square", {x}); }
Value rsqrt(Value x) { return elementwise("reciprocal_root", {x}); }
Value exp(Value x) { return elementwise("exponential", {x}); }
Value sin(Value x) { return elementwise("sine", {x}); }
Value cos(Value x) { return elementwise("cosine", {x}); }

}  // namespace sinter
