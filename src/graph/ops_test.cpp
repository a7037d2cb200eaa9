// What every op promises, checked on the samples and refusals of its own record.
#include "graph/ops.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "graph/autodiff.h"
#include "graph/formula.h"
#include "graph/interpreter.h"

using namespace sinter;

namespace {

Type with_float(Type type, DType dtype) {
  if (is_float(type.dtype)) type.dtype = dtype;
  return type;
}

std::vector<int64_t> sizes_of(const Shape& shape) {
  std::vector<int64_t> sizes;
  for (const Dim& dim : shape) sizes.push_back(dim.constant());
  return sizes;
}

double* doubles(Tensor& t) { return reinterpret_cast<double*>(t.data()); }

/// Uniform in [low, high]; integers where the type asks for them.
Tensor draw(const Type& type, double low, double high, std::mt19937& random) {
  Tensor values(DType::f64, sizes_of(type.shape));
  for (int64_t i = 0; i < values.count(); ++i) doubles(values)[i] = low + (high - low) * (double(random()) / 4294967296.0);
  return values.to(type.dtype);
}

/// A sample as a graph, with its inputs and weights drawn.
struct Case {
  std::unique_ptr<Graph> graph = std::make_unique<Graph>();
  std::vector<Value> arguments;
  Value result;
  std::map<std::string, Tensor> inputs, weights;

  Case(const Sample& sample, DType dtype, uint32_t seed) {
    std::mt19937 random(seed);
    for (const Type& type : sample.inputs) {
      std::string name = "x" + std::to_string(arguments.size());
      arguments.push_back(graph->input(name, with_float(type, dtype)));
      // Drawn in f32 for every type, so that cases of two types hold the same numbers up to rounding.
      inputs[name] = draw(with_float(type, DType::f32), sample.low, sample.high, random).to(arguments.back().dtype());
    }
    result = sample.build(arguments);
    graph->output("y", result);
    for (const WeightUse& use : weights_of(*graph))
      weights[use.name] = draw({DType::f32, use.type.shape}, -1, 1, random).to(use.type.dtype);
  }
  Tensor run(const Graph& g) const {
    return interpret(g, inputs, [&](const std::string& name) { return weights.at(name); }).at(0);
  }
  Tensor run() const { return run(*graph); }
};

template <class Body>
void for_each_sample(Body body) {
  for (const OpDef* op : all_ops()) {
    INFO("op ", std::string(op->name));
    REQUIRE((op->samples != nullptr));
    for (const Sample& sample : op->samples()) {
      std::string types;
      for (const Type& type : sample.inputs) types += type.text() + " ";
      INFO("sample ", types);
      body(*op, sample);
    }
  }
}

bool uses(const Graph& graph, const OpDef& op) {
  for (Value value : topological_order(graph))
    if (value->op == &op) return true;
  return false;
}

double tolerance(DType dtype) {
  return dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 2e-6 : dtype == DType::f16 ? 1e-2 : 6e-2;
}

/// d sum(result * g) / d input[at], from two evaluations.
double slope(Case& c, const std::string& input, int64_t at, const Tensor& g) {
  constexpr double step = 1e-5;
  Tensor& x = c.inputs.at(input);
  double sums[2] = {};
  for (int side : {0, 1}) {
    Tensor original = x.clone();
    doubles(x)[at] += side ? step : -step;
    Tensor y = c.run();
    for (int64_t i = 0; i < y.count(); ++i) sums[side] += doubles(y)[i] * reinterpret_cast<const double*>(g.data())[i];
    x = original;
  }
  return (sums[1] - sums[0]) / (2 * step);
}

void check_gradients(const Sample& sample) {
  Case c(sample, DType::f64, 5);
  std::mt19937 random(6);
  Tensor g = draw(c.result->type, -1, 1, random);
  std::vector<Value> by;
  for (Value argument : c.arguments)
    if (is_float(argument.dtype())) by.push_back(argument);
  auto found = gradients(c.result, constant(*c.graph, g), by);
  for (size_t i = 0; i < by.size(); ++i) {
    REQUIRE(found[i]->type == by[i]->type);
    c.graph->output("gradient", found[i]);
    Tensor gradient = interpret(*c.graph, c.inputs, [&](const std::string& name) { return c.weights.at(name); }).back();
    const std::string& name = by[i]->attrs.as<NameAttrs>().name;
    for (int64_t at = 0; at < gradient.count(); at += 1 + gradient.count() / 12) {
      double expected = slope(c, name, at, g);
      INFO("input ", name, " element ", at);
      CHECK(doubles(gradient)[at] == doctest::Approx(expected).epsilon(1e-6).scale(1e-2));
    }
  }
}

}  // namespace

TEST_CASE("ops.list and formulas.list are sorted, and find_op finds exactly what they name") {
  auto ops = all_ops();
  for (size_t i = 0; i < ops.size(); ++i) {
    if (i > 0) CHECK(ops[i - 1]->name < ops[i]->name);
    CHECK(find_op(ops[i]->name) == ops[i]);
    CHECK_FALSE(ops[i]->summary.empty());
  }
  CHECK(find_op("no_such_op") == nullptr);
  std::vector<std::string_view> lines = {
#define SINTER_OP(name) #name,
#include "graph/ops.list"
#undef SINTER_OP
  };
  CHECK(std::is_sorted(lines.begin(), lines.end()));
  CHECK(std::is_sorted(formulas().begin(), formulas().end(), [](auto& a, auto& b) { return a.name < b.name; }));
  CHECK(ops.size() == lines.size() + formulas().size());
}

TEST_CASE("every op can be evaluated and differentiated, or is one that interpreter and autodiff know") {
  for (const OpDef* op : all_ops()) {
    INFO(std::string(op->name));
    bool known = op == &input_op || op == &weight_op || op == &call_op || op == &result_op;
    CHECK((op->reference || op->expand || known));
    CHECK((op->gradient || op->expand || known));
    CHECK((op->infer && op->samples));
  }
}

TEST_CASE("a sample gives what infer says, in every float type, close to the value in f64") {
  for_each_sample([](const OpDef& op, const Sample& sample) {
    Case exact(sample, DType::f64, 1);
    CHECK(uses(*exact.graph, op));
    verify(*exact.graph);
    Tensor expected = exact.run().to(DType::f64);
    for (DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16}) {
      Case c(sample, dtype, 1);
      Tensor y = c.run();
      INFO("in ", std::string(name(dtype)));
      CHECK(y.dtype() == c.result.dtype());
      CHECK(y.shape() == sizes_of(c.result.shape()));
      // Steps land on the other side where arguments are rounded.
      if (sample.differentiable || dtype == DType::f64) CHECK(relative_error(y, expected) < tolerance(dtype));
    }
  });
}

TEST_CASE("a composite's expansion and its reference agree") {
  for_each_sample([](const OpDef& op, const Sample& sample) {
    if (!op.expand) return;
    for (DType dtype : {DType::f64, DType::f32}) {
      Case c(sample, dtype, 2);
      Graph expanded;
      copy_graph(*c.graph, expanded, {}, [&](const Node& n, std::span<const Value> inputs, Graph& to) -> Value {
        if (n.op != &op) return {};
        return op.expand(*to.add(op, {inputs.begin(), inputs.end()}, n.attrs));
      });
      CHECK_FALSE(uses(expanded, op));
      CHECK(relative_error(c.run(expanded), c.run()) < tolerance(dtype));
    }
  });
}

TEST_CASE("gradients agree with central differences") {
  for_each_sample([](const OpDef&, const Sample& sample) {
    if (sample.differentiable) check_gradients(sample);
  });
}

TEST_CASE("every refusal says what is wrong") {
  for (const OpDef* op : all_ops()) {
    if (!op->refusals) continue;
    for (const Refusal& refusal : op->refusals()) {
      Graph graph;
      std::vector<Value> inputs;
      for (const Type& type : refusal.inputs) inputs.push_back(graph.input("x" + std::to_string(inputs.size()), type));
      INFO("op ", std::string(op->name), ", expecting '", refusal.words, "'");
      std::string found = "no error";
      try {
        refusal.build(inputs);
      } catch (const Error& e) {
        CHECK(e.code() == Code::InvalidArgument);
        found = e.message();
      }
      INFO("found '", found, "'");
      CHECK(found.find(refusal.words) != std::string::npos);
    }
  }
}

TEST_CASE("attributes read back from their texts make the same node") {
  for_each_sample([](const OpDef& op, const Sample& sample) {
    Case c(sample, DType::f32, 1);
    size_t checked = 0;
    for (Value value : topological_order(*c.graph)) {
      if (value->op != &op || !op.read_attrs) continue;
      AttrTexts texts;
      for (auto& [field, text] : value->attrs.texts()) texts[field] = text;
      CHECK(c.graph->add(op, value->inputs, op.read_attrs(texts)) == value);
      ++checked;
    }
    CHECK((checked > 0 || !op.read_attrs));
  });
}
