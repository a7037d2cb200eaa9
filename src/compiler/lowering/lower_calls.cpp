#include "compiler/lowering/lowering.h"

namespace sinter {

HeadPlace Lowering::heads(const View& view, const Node* node) {
  if (view.scaled() || !(view.strides[3] == Dim(1) || view.shape[3] == Dim(1))) throw NeedsMemory{node, resident_.contains(node)};
  return {place(view), view.strides[0], view.strides[1], view.strides[2]};
}

void Lowering::emit_attention(const Node* n) {
  const auto& a = n->attrs.as<AttentionAttrs>();
  AttentionStep step;
  Value q = n->inputs[0], k = n->inputs[1], v = n->inputs[2];
  step.b = q.dim(0), step.queries = q.dim(1), step.heads = q.dim(2), step.d = q.dim(3), step.keys = k.dim(1);
  step.scale = a.scale, step.causal = a.causal;
  View views[3];
  for (size_t i = 0; i < 3; ++i) {
    views[i] = view_of(n->inputs[i].node(), residents());
    if (views[i].dtype != q.dtype()) throw NeedsMemory{n->inputs[i].node()};
  }
  step.q = heads(views[0], q.node()), step.k = heads(views[1], k.node()), step.v = heads(views[2], v.node());
  step.in = q.dtype();
  if (n->op == &fp8_attention_op) {
    step.unit = place(dense_operand(n->inputs[3]));
  } else if (n->inputs.size() > 3) {
    Value bias = n->inputs[3];
    View view = copyable(bias.node());
    if (view.dtype != DType::f32) view = copied(view, DType::f32);
    if (view.scaled()) throw NeedsMemory{bias.node()};
    // Broadcast by stride 0 along axes of size 1.
    size_t missing = 4 - view.shape.size();
    auto stride = [&](size_t axis) -> Dim {
      if (axis < missing || view.shape[axis - missing] == Dim(1)) return 0;
      return view.strides[axis - missing];
    };
    step.biased = true;
    step.bias = {place(view), stride(0), stride(2), stride(1)};
    step.bias_key_stride = stride(3);
    if (!(stride(3) == Dim(0) || stride(3) == Dim(1))) throw NeedsMemory{bias.node()};
  }
  const View& out = homes_.at(n);
  step.out = heads(out, n);
  step.out_type = out.dtype;
  program_.steps.push_back(std::move(step));
}

void Lowering::emit_group_stats(const Node* n) {
  const auto& a = n->attrs.as<GroupNormAttrs>();
  auto [x, stride] = rows_of(n->inputs[0]);
  GroupStatsStep step;
  Value v = n->inputs[0];
  step.n = v.dim(0);
  step.channels = v.dim(-1).constant();
  step.pixels = element_count({v.shape().begin() + 1, v.shape().end() - 1});
  step.groups = a.groups, step.epsilon = a.epsilon, step.type = x.dtype, step.x = place(x), step.pixel_stride = stride;
  Value in[2] = {n->inputs[1], n->inputs[2]};
  Place places[2];
  for (int i = 0; i < 2; ++i) {
    const Node* at = in[i].node();
    if (options_.vendor && weight_rows(in[i])) {
      places[i] = {{BufferRef::weight, rows_slot(*weight_rows(in[i]), DType::f32)}, 0};
      continue;
    }
    if (!home(at) || home(at)->dtype != DType::f32) {
      if (at->op != &cast_op) throw NeedsMemory{at};
      throw_unless_resident(at);
    }
    places[i] = place(*home(at));
  }
  step.gamma = places[0], step.beta = places[1], step.out = place(homes_.at(n));
  if (n->inputs.size() > 3) {
    auto [addend, addend_stride] = rows_of(n->inputs[3]);
    step.adds = true;
    step.addend = place(addend), step.addend_stride = addend_stride, step.addend_type = addend.dtype;
  }
  program_.steps.push_back(std::move(step));
}

void Lowering::throw_unless_resident(const Node* n) {
  if (!resident_.contains(n)) throw NeedsMemory{n};
}

void Lowering::emit_embedding(const Node* n) {
  EmbeddingStep step;
  const Node* weight = weight_of(n->inputs[0]);
  View table = weight ? *home(weight) : dense_operand(n->inputs[0]);
  if (weight && options_.vendor)
    table = dense_view({BufferRef::weight, rows_slot({{weight}}, n->type.dtype)}, {n->type.dtype, weight->type.shape});
  View indices = dense_operand(n->inputs[1]);
  SINTER_ASSERT(indices.dtype == DType::i64);
  step.count = element_count(indices.shape);
  step.rows = table.shape[0];
  step.width = table.shape[1].constant();
  step.table_type = table.dtype, step.out_type = n->type.dtype;
  step.table = place(table), step.indices = place(indices), step.out = place(homes_.at(n));
  program_.steps.push_back(std::move(step));
}

void Lowering::emit_concat(const Node* n) {
  for (size_t p = 0; p < n->inputs.size(); ++p) {
    View target = part_of_concat(n, p);
    const Node* part = n->inputs[p].node();
    const Node* written = below_reshapes(part);
    auto at = homes_.find(written);
    auto place = reshaped(target, written->type.shape);
    bool there = place && at != homes_.end() && resident_.contains(written) && at->second.buffer == place->buffer &&
                 at->second.offset == place->offset && at->second.strides == place->strides;
    if (!there) copy(part, target);
  }
}

void Lowering::emit_call(const Node* n) {
  const auto& function = *n->attrs.as<CallAttrs>().function;
  CallStep step;
  step.callee = callees_++;
  for (Value input : n->inputs) {
    View view = copyable(input.node());
    // A callee reads its parameters from the beginning of a buffer, dense.
    if (!is_dense(view) || !(view.offset == Dim(0)) || view.dtype != input.dtype()) {
      view = copied(view, input.dtype());
    }
    step.arguments.push_back(view.buffer);
  }
  std::vector<int>& results = call_results_[n];
  results.clear();
  for (size_t i = 0; i < function.graph.outputs().size(); ++i) {
    const Type& type = function.graph.outputs()[i].value->type;
    View view = i == 0
                    ? homes_.at(n)
                    : dense_view({BufferRef::temporary, temporary(element_count(type.shape) * Dim(byte_size(type.dtype)))}, type);
    results.push_back(view.buffer.index);
    step.results.push_back(view.buffer);
  }
  program_.steps.push_back(std::move(step));
}

}  // namespace sinter
