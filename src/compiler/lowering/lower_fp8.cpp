#include "compiler/lowering/lowering.h"

namespace sinter {

bool Lowering::is_fp8(const Node& n) const {
  bool linear = n.op == &linear_op || is_pointwise_conv(n);
  auto rows = linear && options_.vendor && options_.fp8_width > 0 ? weight_rows(n.inputs[1]) : std::nullopt;
  if (!rows) return false;
  Value x = n.inputs[0];
  auto fits = [&](const Dim& width) { return width.constant() >= options_.fp8_width && width.constant() % 16 == 0; };
  return x.rank() >= 3 && x.dtype() == DType::bf16 && n.type.dtype == DType::bf16 && fits(x.dim(-1)) &&
         fits(n.type.shape.back()) && rows->first % 16 == 0;
}

Lowering::Quantised Lowering::quantised_rows(const BatchedRows& a) {
  const Shape& shape = a.view.shape;
  Dim batch = a.together ? Dim(1) : shape[0];
  Dim m = a.together ? rows_count(shape) : element_count({shape.begin() + 1, shape.end() - 1});
  return {a.view.buffer, a.view.offset, batch, a.batch_stride, m, a.stride, shape.back().constant(), {}, {}};
}

void Lowering::place_quantised(Quantised& q, const Shape& shape) {
  Dim rows = element_count({shape.begin(), shape.end() - 1});
  View data = dense_view({BufferRef::temporary, temporary(rows * Dim(q.k))}, {DType::f8e4m3, shape});
  q.rows = *batched_rows(data);
  q.scales = {{BufferRef::temporary, temporary(rows * Dim(4))}, 0};
}

Lowering::Quantised Lowering::quantised(const BatchedRows& a) {
  Quantised q = quantised_rows(a);
  for (const Quantised& other : quantised_)
    if (other.is_of(q)) return other;
  place_quantised(q, a.view.shape);
  QuantiseStep step{q.batch, q.m, q.k, a.view.dtype, place(a.view), place(q.rows.view), q.scales, a.stride, a.batch_stride};
  program_.steps.push_back(std::move(step));
  quantised_.push_back(q);
  return q;
}

bool Lowering::can_quantise(const Node* n, const BuiltKernel& built) const {
  if (!options_.fuse || options_.fp8_width <= 0) return false;
  const View& home = homes_.at(n);
  constexpr int64_t kMostColumns = 16384;  // longer rows are not kept between the search for the largest and the store
  const Dim& columns = built.use.columns;
  bool rows = home.buffer.space == BufferRef::temporary && home.offset == Dim(0) && is_dense(home) && columns.is_constant() &&
              columns.constant() <= kMostColumns && columns == home.shape.back();
  return rows && built.kernel.operands.back().column == ColumnAccess::dense && only_fp8_reads(n, columns);
}

bool Lowering::only_fp8_reads(const Node* n, const Dim& columns) const {
  for (const Node* user : users_.at(n)) {
    if (!user) return false;
    bool product = is_fp8(*user) && user->inputs[0].node() == n && n->type.shape.back() == columns;
    bool reshape = user->op == &reshape_op && !resident_.contains(user) && user->type.shape.back() == columns;
    if (!product && !(reshape && only_fp8_reads(user, columns))) return false;
  }
  return true;
}

void Lowering::quantise_result(const Node* n, BuiltKernel& built) {
  const View& home = homes_.at(n);
  Quantised q = quantised_rows(*batched_rows(home));
  place_quantised(q, home.shape);
  RowKernel& kernel = built.kernel;
  KernelUse& use = built.use;
  auto add = [&](KernelStep step) {
    kernel.body.push_back(step);
    return int(kernel.body.size()) - 1;
  };
  auto number = [&](double value) { return add({.kind = KernelStep::constant, .value = value}); };
  auto primitive = [&](Prim prim, int a, int b = -1) {
    return add({.kind = KernelStep::primitive, .prim = prim, .a = a, .b = b});
  };
  constexpr double kLargestE4m3 = 448, kAboveZero = 1e-30;  // rows of zeros stay zeros
  KernelStep store = kernel.body.back();
  kernel.body.pop_back();
  int largest = add({.kind = KernelStep::reduce_max, .a = primitive(Prim::abs, store.a)});
  largest = primitive(Prim::maximum, largest, number(kAboveZero));
  int scale = primitive(Prim::multiply, largest, number(1 / kLargestE4m3));
  int factor = primitive(Prim::divide, number(kLargestE4m3), largest);
  store.a = primitive(Prim::multiply, store.a, factor);
  kernel.operands.back().dtype = DType::f8e4m3;
  use.operands.back().buffer = q.rows.view.buffer;
  add(store);

  OperandUse scales{q.scales.buffer, false, 0, std::vector<Dim>(use.outer.size()), 0, {}};
  Dim stride = 1;
  for (size_t d = use.outer.size(); d-- > 0; stride = stride * use.outer[d]) scales.strides[d] = stride;
  kernel.operands.push_back({DType::f32, ColumnAccess::broadcast, RowAccess::dims, true});
  use.operands.push_back(std::move(scales));
  add({.kind = KernelStep::store, .a = scale, .operand = int(kernel.operands.size()) - 1});
  quantised_.push_back(std::move(q));
}

}  // namespace sinter
