#include "compiler/lowering/program.h"
#include "graph/ops.h"

namespace sinter {
namespace {

struct BufferVisitor {
  const std::function<void(BufferRef)>& visit;
  void operator()(const KernelUse& use) const {
    for (const OperandUse& o : use.operands)
      if (!o.tile) visit(o.buffer);
  }
  void operator()(const std::optional<KernelUse>& use) const {
    if (use) (*this)(*use);
  }
  void operator()(const std::optional<VendorTail>& tail) const {
    if (tail && tail->adds) visit(tail->residual.buffer);
  }
  void operator()(const RowStep& s) const { (*this)(s.use); }
  void operator()(const LinearStep& s) const {
    visit(s.a.buffer), (*this)(s.epilogue), (*this)(s.tail);
    if (s.a_type == DType::f8e4m3) visit(s.a_scales.buffer);
    if (!s.epilogue) visit(s.out.buffer);
  }
  void operator()(const ConvStep& s) const {
    (*this)(s.prologue), (*this)(s.epilogue), (*this)(s.tail);
    if (!s.prologue) visit(s.in.buffer);
    if (s.computed) visit(s.filter.buffer);
    if (!s.epilogue || s.tail) visit(s.out.buffer);
  }
  void operator()(const MatmulStep& s) const { visit(s.a.buffer), visit(s.b.buffer), visit(s.out.buffer); }
  void operator()(const AttentionStep& s) const {
    for (const HeadPlace* p : {&s.q, &s.k, &s.v, &s.out}) visit(p->at.buffer);
    if (s.biased) visit(s.bias.at.buffer);
    if (s.in == DType::f8e4m3) visit(s.unit.buffer);
  }
  void operator()(const GroupStatsStep& s) const {
    for (const Place* p : {&s.x, &s.gamma, &s.beta, &s.out}) visit(p->buffer);
    if (s.adds) visit(s.addend.buffer);
  }
  void operator()(const EmbeddingStep& s) const { visit(s.table.buffer), visit(s.indices.buffer), visit(s.out.buffer); }
  void operator()(const QuantiseStep& s) const { visit(s.x.buffer), visit(s.out.buffer), visit(s.scales.buffer); }
  void operator()(const CallStep& s) const {
    for (BufferRef b : s.arguments) visit(b);
    for (BufferRef b : s.results) visit(b);
  }
};

void expect(bool condition, std::string_view promise) {
  if (!condition) fail(Code::Corrupt, "a program does not hold together: {}", promise);
}
bool below(int64_t index, size_t count) { return index >= 0 && index < int64_t(count); }
void expect_types(std::initializer_list<DType> types) {
  for (DType type : types) expect(type <= DType::boolean, "an element type is none");
}
void expect_sizes(std::initializer_list<int64_t> sizes, int64_t least = 1) {
  for (int64_t size : sizes) expect(size >= least && size < int64_t(1) << 31, "a size of a call is out of range");
}
/// Inputs, weights and constants may lie in memory that cannot be written.
void expect_writable(BufferRef b) {
  expect(b.space == BufferRef::result || b.space == BufferRef::temporary, "a step writes what is only read");
}

class Validator {
 public:
  Validator(const Program& program, const Graph& graph) : p_(program), graph_(graph), weights_(own_weights(graph)) {
    for (Value v : topological_order(graph))
      if (v->op == &call_op) calls_.push_back(&v->attrs.as<CallAttrs>().function->graph);
  }

  void operator()() {
    for (const RowKernel& kernel : p_.kernels) check(kernel);
    for (const KernelVariant& variant : p_.variants) check(variant);
    for (const WeightSlot& slot : p_.weights) check(slot);
    for (const Tensor& constant : p_.constants) expect_types({constant.dtype()});
    for (const Temporary& t : p_.temporaries)
      expect(t.first_step <= t.last_step && (below(t.last_step, p_.steps.size()) || t.last_step == 0) && t.first_step >= 0,
             "a temporary lives outside of the program");
    for (size_t i = 0; i < p_.steps.size(); ++i) {
      for_each_buffer(p_.steps[i], [&](BufferRef b) { check(b, i); });
      std::visit([&](const auto& step) { check(step); }, p_.steps[i]);
    }
  }

 private:
  void check(const RowKernel& k) {
    expect(k.rank >= 1 && k.rank <= 64 && k.operands.size() <= size_t(kMaxFusedOperands), "a kernel is too large");
    for (const KernelOperand& o : k.operands) {
      expect_types({o.dtype});
      expect(o.column <= ColumnAccess::strided && o.row <= RowAccess::flat, "an operand is addressed in no known way");
    }
    for (size_t i = 0; i < k.body.size(); ++i) check(k, k.body[i], i);
    expect(k.param_count() <= kMaxFusedParams, "a kernel has too many params");
  }

  void check(const RowKernel& k, const KernelStep& s, size_t number) {
    expect(s.kind <= KernelStep::swap_pairs, "a kernel's step is of no known kind");
    for (int earlier : {s.a, s.b, s.c}) expect(earlier == -1 || below(earlier, number), "a kernel's step uses a later one");
    bool memory = s.kind == KernelStep::load || s.kind == KernelStep::store;
    if (memory) expect(below(s.operand, k.operands.size()), "a kernel has no such operand");
    if (s.kind == KernelStep::row_index) expect(below(s.operand, size_t(k.rank)), "a kernel has no such dim");
  }

  void check(const KernelVariant& v) {
    expect(below(v.kernel, p_.kernels.size()), "a variant is of no kernel");
    const GpuSchedule& s = v.schedule;
    auto power_of_two = [](int n) { return n > 0 && (n & (n - 1)) == 0; };
    expect(s.columns >= 0 && power_of_two(s.vector) && s.vector <= 8 && s.turns > 0 && s.turns <= 1024,
           "a schedule is impossible");
    expect(s.row_threads > 0 && s.block_rows > 0 && s.row_threads <= 1024 && s.block_rows <= 1024 / s.row_threads,
           "a block has too many threads");
    expect(s.operands.size() == p_.kernels[size_t(v.kernel)].operands.size(), "a schedule is of another kernel");
    for (const auto& operand : s.operands)
      expect(power_of_two(operand.access) && operand.access <= 16, "an access is impossible");
  }

  void check(const WeightSlot& slot) {
    expect(!slot.ordinals.empty(), "a slot is of no weight");
    for (int32_t ordinal : slot.ordinals) expect(below(ordinal, weights_.size()), "there is no such weight");
    expect(slot.form <= WeightSlot::doubled_filters && slot.panels <= PanelType::bf16_dot, "a weight is wanted in no known form");
    const Shape& shape = shape_of(slot);
    if (slot.form == WeightSlot::rows || slot.form == WeightSlot::e4m3_rows) {
      for (int32_t ordinal : slot.ordinals)
        expect(row_elements(weights_[size_t(ordinal)].shape()) == row_elements(shape), "joined weights have rows of one length");
      return;
    }
    expect(slot.ordinals.size() == 1, "several weights are joined in a form that cannot be");
    if (slot.form == WeightSlot::filters) expect(shape.size() == 4, "a weight is no convolution");
    if (slot.form == WeightSlot::doubled_filters)
      expect(shape.size() == 4 && shape[2] == Dim(3) && shape[3] == Dim(3), "a weight has no windows of 3 x 3");
    if (slot.form == WeightSlot::matrix)
      expect(shape.size() == 2 && slot.parts > 0 && shape[0].constant() % slot.parts == 0, "a weight is no such matrix");
    if (slot.form == WeightSlot::convolution) expect(shape.size() == 4 && slot.parts == 1, "a weight is no convolution");
  }

  void check(BufferRef b, size_t step) {
    expect(b.space <= BufferRef::temporary, "a buffer lies in no known space");
    const size_t counts[] = {graph_.inputs().size(), graph_.outputs().size(), p_.weights.size(), p_.constants.size(),
                             p_.temporaries.size()};
    expect(below(b.index, counts[b.space]), "there is no such buffer");
    if (b.space == BufferRef::weight)
      expect(p_.weights[size_t(b.index)].form == WeightSlot::plain || p_.weights[size_t(b.index)].form == WeightSlot::rows,
             "a packed weight is read plainly");
    if (b.space != BufferRef::temporary) return;
    const Temporary& t = p_.temporaries[size_t(b.index)];
    expect(int64_t(step) >= t.first_step && int64_t(step) <= t.last_step, "a temporary is used when it does not live");
  }

  void check(const KernelUse& use, int tiles) {
    expect(below(use.kernel, p_.kernels.size()), "there is no such kernel");
    const RowKernel& k = p_.kernels[size_t(use.kernel)];
    expect(use.variant == -1 || (below(use.variant, p_.variants.size()) && p_.variants[size_t(use.variant)].kernel == use.kernel),
           "a kernel is used in no variant of it");
    expect(use.outer.size() == size_t(k.rank) && use.operands.size() == k.operands.size(), "a kernel is used for another one");
    for (size_t i = 0; i < use.operands.size(); ++i) {
      const OperandUse& o = use.operands[i];
      const KernelOperand& as = k.operands[i];
      expect(o.strides.size() == size_t(k.rank), "an operand has other dims than its kernel");
      expect(o.tile == (as.row == RowAccess::flat), "an operand is not the tile that its kernel takes it for");
      expect(o.scales.size() == (as.row == RowAccess::scaled ? size_t(k.rank) : 0),
             "an operand is not scaled as its kernel says");
      if (as.written && !o.tile) expect_writable(o.buffer);
      tiles -= o.tile;
    }
    expect(tiles == 0, "a kernel has not the tiles that its call gives it");
  }
  void check(const std::optional<KernelUse>& use, int tiles) {
    if (use) check(*use, tiles);
  }

  void check(const RowStep& s) { check(s.use, 0); }

  void check(const LinearStep& s) {
    expect_types({s.a_type});
    expect_sizes({s.n, s.k, s.parts});
    if (s.tail) {
      auto form = s.a_type == DType::f8e4m3 ? WeightSlot::e4m3_rows : WeightSlot::rows;
      expect(row_elements(shape_of(packed(s.weight, form))) == s.k && !s.epilogue,
             "a matrix has rows of another length than its weight");
      expect(s.parts == (s.tail->gated ? 2 : 1) && !(s.tail->gated && (s.tail->gelu || s.tail->adds)),
             "the parts of a matrix meet nowhere");
      expect_rows(s.weight, s.weight_row, s.n * s.parts);
      expect_writable(s.out.buffer);
      return check(*s.tail, s.weight_row, s.n * s.parts);
    }
    expect(s.a_type != DType::f8e4m3, "only a vendor multiplies f8e4m3");
    const WeightSlot& slot = packed(s.weight, WeightSlot::matrix);
    const Shape& shape = shape_of(slot);
    expect(slot.parts == s.parts && shape[0] == Dim(s.n * s.parts) && shape[1] == Dim(s.k),
           "a matrix has another size than its weight");
    expect(s.parts <= kMaxTiles && (s.parts == 1 || s.epilogue), "the parts of a matrix meet nowhere");
    if (!s.epilogue) expect_writable(s.out.buffer);
    check(s.epilogue, s.parts);
  }

  void check(const ConvStep& s) {
    expect_types({s.in_type, s.filter_type});
    expect_sizes({s.c, s.out_c, s.kernel_h, s.kernel_w, s.stride});
    expect_sizes({s.top, s.left, s.bottom, s.right}, 0);
    if (!s.epilogue || s.tail) expect_writable(s.out.buffer);
    if (!s.computed) {
      auto form = s.doubled ? WeightSlot::doubled_filters : s.tail ? WeightSlot::filters : WeightSlot::convolution;
      const Shape& shape = shape_of(packed(s.weight, form));
      expect(shape == Shape{s.out_c, s.c, s.kernel_h, s.kernel_w}, "a convolution has another size than its weight");
    }
    if (s.doubled)
      expect(s.tail && !s.computed && s.stride == 1 && s.top == 1 && s.left == 1 && s.bottom == 1 && s.right == 1,
             "a convolution of a picture at twice its size is none of a vendor's with a stride and a padding of 1");
    if (s.tail) {
      const bool adds_itself = s.tail->adds || (s.doubled && s.tail->bias >= 0);
      expect(!s.prologue && s.epilogue.has_value() == adds_itself && !(s.doubled && s.tail->adds),
             "a vendor's convolution has another kernel than one that adds its residual or its bias");
      check(*s.tail, 0, s.out_c);
    }
    check(s.prologue, 1), check(s.epilogue, s.tail ? 0 : 1);
  }

  void check(const VendorTail& tail, int64_t row, int64_t rows) {
    expect_types({tail.out_type});
    if (tail.bias < 0) return;
    expect(row_elements(shape_of(packed(tail.bias, WeightSlot::rows))) == 1, "a bias has more than one element a row");
    expect_rows(tail.bias, row, rows);
  }
  void expect_rows(int32_t slot, int64_t row, int64_t rows) const {
    int64_t total = 0;
    for (int32_t ordinal : p_.weights[size_t(slot)].ordinals) total += weights_[size_t(ordinal)].shape()[0].constant();
    expect(row >= 0 && rows <= total && row <= total - rows, "a weight has fewer rows than its step reads");
  }
  const Shape& shape_of(const WeightSlot& slot) const { return weights_[size_t(slot.ordinals[0])].shape(); }
  static int64_t row_elements(const Shape& shape) {
    int64_t count = 1;
    for (size_t d = 1; d < shape.size(); ++d) count *= shape[d].constant();
    return count;
  }

  void check(const MatmulStep& s) {
    expect_types({s.a_type, s.b_type, s.out_type});
    expect_writable(s.out.buffer);
  }
  void check(const AttentionStep& s) {
    expect_types({s.in, s.out_type});
    expect(s.in != DType::f8e4m3 || (s.out_type == s.in && !s.biased && !s.causal), "an f8e4m3 attention has no such form");
    expect_writable(s.out.at.buffer);
  }
  void check(const GroupStatsStep& s) {
    expect_types({s.type, s.addend_type});
    expect_writable(s.out.buffer);
    expect_sizes({s.channels, s.groups});
    expect(s.channels % s.groups == 0, "channels do not make groups");
  }
  void check(const EmbeddingStep& s) {
    expect_types({s.table_type, s.out_type});
    expect_writable(s.out.buffer);
    expect_sizes({s.width});
  }
  void check(const QuantiseStep& s) {
    expect_types({s.type});
    expect_sizes({s.k});
    for (const Place* p : {&s.out, &s.scales})
      expect(p->buffer.space == BufferRef::result || p->buffer.space == BufferRef::temporary,
             "what is only read is quantised into");
  }
  void check(const CallStep& s) {
    expect(below(s.callee, calls_.size()), "there is no such call");
    const Graph& callee = *calls_[size_t(s.callee)];
    expect(s.arguments.size() == callee.inputs().size() && s.results.size() == callee.outputs().size(),
           "a call has other arguments or results than its function");
    for (BufferRef b : s.results) expect_writable(b);
  }

  const WeightSlot& packed(int32_t slot, WeightSlot::Form form) {
    expect(below(slot, p_.weights.size()), "there is no such weight slot");
    expect(p_.weights[size_t(slot)].form == form, "a weight has another form than its step wants");
    return p_.weights[size_t(slot)];
  }

  const Program& p_;
  const Graph& graph_;
  std::vector<Value> weights_;
  std::vector<const Graph*> calls_;
};

}  // namespace

void for_each_buffer(const Step& step, const std::function<void(BufferRef)>& visit) { std::visit(BufferVisitor{visit}, step); }

void validate(const Program& program, const Graph& graph) { Validator(program, graph)(); }

}  // namespace sinter
