#include "compiler/lowering/lowering.h"

namespace sinter {

const Node* weight_of(Value v) {
  const Node* n = v.node();
  if (n->op == &cast_op) n = n->inputs[0].node();
  return n->op == &weight_op ? n : nullptr;
}

bool is_pointwise_conv(const Node& n) {
  if (n.op != &conv2d_op) return false;
  const auto& a = n.attrs.as<ConvAttrs>();
  const Shape& window = n.inputs[1].shape();
  return window[2] == Dim(1) && window[3] == Dim(1) && a.stride == 1 && a.top + a.left + a.bottom + a.right == 0;
}

PanelType Lowering::panels_for(const Node* weight, DType compute, bool even) const {
  PanelType type = panel_type(weight->type.dtype);
  if (compute == DType::bf16) type = options_.bf16_dot && even ? PanelType::bf16_dot : PanelType::bf16;
  return type;
}

template <class CallStepType>
void Lowering::set_result(CallStepType& step, const Node* root) {
  if (step.epilogue) return;
  const View& out = homes_.at(root);
  step.out = place(out);
  step.out_stride = *row_stride(out);
}

void Lowering::emit_product_call(const Node* n, const Node* root) {
  if (options_.vendor && is_linear(*n)) return emit_vendor_linear(n, root);
  if (n->op == &linear_op) return emit_linear(n, root);
  emit_conv(n, root);
}

void Lowering::emit_vendor_linear(const Node* n, const Node* root) {
  LinearStep step;
  WeightRows rows = *weight_rows(n->inputs[1]);
  Value x = n->inputs[0];
  BatchedRows a = batched_rows_of(x);
  if (is_fp8(*n)) {
    Quantised q = quantised(a);
    step.a_scales = q.scales;
    a = q.rows;
  }
  View target = writable_rows(root);
  BatchedRows out = *batched_rows(target);
  bool together = a.together && out.together;
  step.k = x.dim(-1).constant();
  step.n = n->type.shape.back().constant();
  step.weight = rows_slot(rows, a.view.dtype);
  step.weight_row = rows.first;
  VendorTail& tail = step.tail.emplace();
  tail.out_type = target.dtype;
  if (auto at = tails_.find(n); at != tails_.end()) {
    tail.gelu = at->second.gelu;
    if (at->second.gated) {
      tail.gated = true;
      step.parts = 2, step.n /= 2;
    }
    if (at->second.bias) {
      WeightRows bias = *weight_rows(Value(at->second.bias));
      if (bias.first != rows.first) throw NeedsMemory{n};
      tail.bias = rows_slot(bias, tail.out_type);
    }
    if (at->second.residual) {
      BatchedRows residual = batched_rows_of(Value(at->second.residual));
      if (residual.view.dtype != tail.out_type) throw NeedsMemory{n};
      together = together && residual.together;
      tail.adds = true;
      tail.residual = place(residual.view);
      tail.residual_stride = residual.stride, tail.residual_batch_stride = residual.batch_stride;
    }
  }
  step.a = place(a.view), step.a_stride = a.stride, step.a_type = a.view.dtype, step.a_batch_stride = a.batch_stride;
  step.out = place(target), step.out_stride = out.stride, step.out_batch_stride = out.batch_stride;
  step.batch = together ? Dim(1) : x.dim(0);
  step.m = together ? rows_count(x.shape()) : element_count({x.shape().begin() + 1, x.shape().end() - 1});
  program_.steps.push_back(std::move(step));
  copy_home(root, target);
}

void Lowering::emit_linear(const Node* n, const Node* root) {
  const Node* weight = weight_of(n->inputs[1]);
  if (!weight) return emit_product(n->inputs[0], n->inputs[1], n, true);
  LinearStep step;
  auto [a, stride] = rows_of(n->inputs[0]);
  step.a = place(a);
  step.a_stride = stride;
  step.a_type = a.dtype;
  step.k = n->inputs[0].dim(-1).constant();
  int64_t n_total = weight->type.shape[0].constant();
  Dim columns = root == n ? Dim(n_total) : root->type.shape.back();
  if (!columns.is_constant() || n_total % columns.constant() != 0) throw NeedsMemory{n};
  step.n = columns.constant();
  step.parts = int32_t(n_total / step.n);
  if (step.parts > kMaxTiles) throw NeedsMemory{n};
  step.m = rows_count(n->inputs[0].shape());
  step.weight = slot(weight, WeightSlot::matrix, panels_for(weight, a.dtype, true), step.parts);
  step.epilogue = epilogue(n, root, step.n, step.parts);
  set_result(step, root);
  program_.steps.push_back(std::move(step));
}

namespace {
/// Pixel i of the large picture is then pixel i / 2 of the small one.
bool is_doubled(const Dim& small, const Dim& large) {
  const Dim rounded_up = floor_div(large - Dim(1), 2) + Dim(1);  // as a convolution by 2 makes it
  return large == small * 2 || small == rounded_up;
}
}  // namespace

Value Lowering::doubled_input(const Node& conv) const {
  const auto& a = conv.attrs.as<ConvAttrs>();
  const Node& large = *conv.inputs[0];
  const Shape& window = conv.inputs[1].shape();
  if (!options_.vendor || !options_.fuse || large.op != &resize_nearest_op || resident_.contains(&large)) return {};
  Value small = large.inputs[0];
  bool twice = is_doubled(small.dim(1), large.type.shape[1]) && is_doubled(small.dim(2), large.type.shape[2]);
  bool around =
      a.stride == 1 && a.top == 1 && a.left == 1 && a.bottom == 1 && a.right == 1 && window[2] == Dim(3) && window[3] == Dim(3);
  bool aligned = conv.type.shape.back().constant() * byte_size(conv.type.dtype) % 16 == 0;
  return twice && around && aligned && weight_of(conv.inputs[1]) ? small : Value();
}

void Lowering::emit_conv(const Node* n, const Node* root) {
  const Node* weight = weight_of(n->inputs[1]);
  const auto& a = n->attrs.as<ConvAttrs>();
  Value x = n->inputs[0];
  ConvStep step;
  if (Value small = doubled_input(*n)) {
    step.doubled = true, step.enlarged_h = x.dim(1), step.enlarged_w = x.dim(2);
    x = small;
  }
  step.n = x.dim(0), step.h = x.dim(1), step.w = x.dim(2), step.c = x.dim(3).constant();
  const Shape& window = n->inputs[1].shape();
  step.out_c = window[0].constant(), step.kernel_h = window[2].constant(), step.kernel_w = window[3].constant();
  step.stride = a.stride, step.top = a.top, step.left = a.left, step.bottom = a.bottom, step.right = a.right;
  step.in_type = x.dtype();
  if (prologue_.contains(n)) {
    step.prologue = add_kernel(build_kernel(x.node(), residents(), {}));
  } else {
    if (options_.vendor) dense_operand(x);
    auto [view, stride] = rows_of(x);
    step.in = place(view);
    step.in_type = view.dtype;
    step.pixel_stride = stride;
  }
  if (weight && options_.vendor) {
    step.weight = slot(weight, step.doubled ? WeightSlot::doubled_filters : WeightSlot::filters, panel_type(step.in_type));
  } else if (weight) {
    step.weight = slot(weight, WeightSlot::convolution, panels_for(weight, step.in_type, step.c % 2 == 0));
  } else {
    View filter = options_.vendor ? filters_of(n->inputs[1], step.in_type) : dense_operand(n->inputs[1]);
    step.computed = true;
    step.filter_type = filter.dtype;
    step.filter = place(filter);
  }
  if (options_.vendor) {
    View target = is_dense(homes_.at(root)) ? homes_.at(root) : writable_dense(root);
    step.tail.emplace().out_type = target.dtype;
    if (auto at = tails_.find(n); at != tails_.end()) {
      const Tail& tail = at->second;
      if (tail.bias) step.tail->bias = rows_slot(*weight_rows(Value(tail.bias)), target.dtype);
      if (tail.bias && step.doubled) step.epilogue = add_kernel(in_place(root, n, target));
      if (tail.residual) {
        View residual = dense_operand(Value(tail.residual));
        if (residual.dtype != target.dtype) throw NeedsMemory{n};
        step.tail->adds = true;
        step.tail->residual = place(residual), step.tail->residual_stride = step.out_c;
        const Node* whole = root->inputs[root->inputs[0].node() == tail.residual ? 1 : 0].node();
        step.epilogue = add_kernel(in_place(root, whole, target));
      }
    }
    step.out = place(target);
    step.out_stride = *row_stride(target);
    program_.steps.push_back(std::move(step));
    return copy_home(root, target);
  }
  step.epilogue = epilogue(n, root, step.out_c, 1);
  set_result(step, root);
  program_.steps.push_back(std::move(step));
}

BuiltKernel Lowering::in_place(const Node* sum, const Node* part, const View& out) {
  Residents there = residents();
  there.home = [=, this](const Node* n) { return n == part ? std::optional<View>(out) : home(n); };
  return build_kernel(sum, there, out);
}

View Lowering::filters_of(Value v, DType type) {
  View view = copyable(v.node());
  std::rotate(view.shape.begin() + 1, view.shape.begin() + 2, view.shape.end());
  std::rotate(view.strides.begin() + 1, view.strides.begin() + 2, view.strides.end());
  if (view.scaled()) throw NeedsMemory{v.node()};
  return copied(view, type);
}

void Lowering::emit_matmul(const Node* n) {
  // b[.., k, n] is wanted as [.., n, k]: a transposed copy, made once.
  Value b = n->inputs[1];
  View view = view_of(b.node(), residents());
  if (view.scaled()) throw NeedsMemory{b.node()};
  std::swap(view.shape[view.shape.size() - 1], view.shape[view.shape.size() - 2]);
  std::swap(view.strides[view.strides.size() - 1], view.strides[view.strides.size() - 2]);
  View turned = copied(view, b.dtype());
  add_product(dense_operand(n->inputs[0]), turned, n, false);
}

void Lowering::emit_product(Value a, Value b, const Node* n, bool shared_b) {
  add_product(dense_operand(a), dense_operand(b), n, shared_b);
}

void Lowering::add_product(const View& a, const View& b, const Node* n, bool shared_b) {
  MatmulStep step;
  size_t rank = a.shape.size();
  step.k = a.shape.back();
  step.n = b.shape[b.shape.size() - 2];
  step.m = shared_b ? rows_count(a.shape) : a.shape[rank - 2];
  step.batch = shared_b ? Dim(1) : element_count({a.shape.begin(), a.shape.end() - 2});
  step.shared_b = shared_b;
  step.a_type = a.dtype, step.b_type = b.dtype;
  step.a = place(a), step.b = place(b);
  const View& out = homes_.at(n);
  if ((out.dtype == DType::f32 || options_.vendor) && is_dense(out)) {
    step.out = place(out);
    step.out_type = out.dtype;
    program_.steps.push_back(std::move(step));
    return;
  }
  // The product is f32; another type, or a place with gaps, takes a copy.
  int index = temporary(element_count(n->type.shape) * Dim(4));
  View result = dense_view({BufferRef::temporary, index}, {DType::f32, n->type.shape});
  step.out = place(result);
  program_.steps.push_back(std::move(step));
  copy(result, out);
}

}  // namespace sinter
