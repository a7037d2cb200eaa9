#include "compiler/lowering/lowering.h"

namespace sinter {

namespace {
bool is_scalar_constant(const Node& n) { return n.op == &constant_op && n.attrs.as<ConstantAttrs>().value.count() == 1; }
}  // namespace

int Lowering::temporary(Dim bytes) {
  program_.temporaries.push_back({std::move(bytes), 0, 0});
  return int(program_.temporaries.size()) - 1;
}

View Lowering::new_home(const Node* n) {
  int index = temporary(element_count(n->type.shape) * Dim(byte_size(n->type.dtype)));
  return dense_view({BufferRef::temporary, index}, n->type);
}

void Lowering::place_homes() {
  for (const auto& [node, index] : inputs_) homes_[node] = dense_view({BufferRef::parameter, index}, node->type);
  for (size_t i = 0; i < graph_.outputs().size(); ++i) {
    const Node* n = below_reshapes(graph_.outputs()[i].value.node());
    if (resident_.contains(n) && n->op != &call_op && !homes_.contains(n))
      homes_[n] = dense_view({BufferRef::result, int(i)}, n->type);
  }
  // Users first: the parts of a concat are written in their places.
  for (size_t i = order_.size(); i-- > 0;) {
    const Node* n = order_[i].node();
    if (!resident_.contains(n) || is_leaf(*n)) continue;
    if (!homes_.contains(n)) homes_[n] = new_home(n);
    if (n->op == &concat_op) place_parts(n);
  }
}

View Lowering::part_of_concat(const Node* concat, size_t part) const {
  View view = homes_.at(concat);
  auto axis = size_t(concat->attrs.as<AxisAttrs>().axis);
  Dim begin = 0;
  for (size_t p = 0; p < part; ++p) begin = begin + concat->inputs[p]->type.shape[axis];
  view.offset = view.offset + begin * view.strides[axis];
  view.shape = concat->inputs[part]->type.shape;
  return view;
}

const Node* Lowering::below_reshapes(const Node* n) const {
  while (n->op == &reshape_op && !resident_.contains(n) && has_one_user(n->inputs[0].node())) n = n->inputs[0].node();
  return n;
}

void Lowering::place_parts(const Node* concat) {
  for (size_t p = 0; p < concat->inputs.size(); ++p) {
    const Node* n = below_reshapes(concat->inputs[p].node());
    bool movable = resident_.contains(n) && n->op != &call_op && n->op != &embedding_op && n->op != &matmul_op &&
                   n->op != &group_scale_shift_op;
    if (!movable || homes_.contains(n) || dense_.contains(n)) continue;
    if (auto view = reshaped(part_of_concat(concat, p), n->type.shape)) homes_[n] = *view;
  }
}

int Lowering::slot(const Node* weight, WeightSlot::Form form, PanelType panels, int parts) {
  return slot({{ordinals_.at(weight)}, form, panels, parts});
}

int Lowering::slot(const WeightSlot& wanted) {
  auto [at, fresh] = slots_.try_emplace(wanted, int(program_.weights.size()));
  if (fresh) program_.weights.push_back(wanted);
  return at->second;
}

std::optional<Lowering::WeightRows> Lowering::weight_rows(Value v) {
  const Node* n = v.node();
  if (n->op == &weight_op) return WeightRows{{n}};
  if (n->op == &cast_op) return weight_rows(n->inputs[0]);
  if (n->op == &slice_op && n->attrs.as<SliceAttrs>().axis == 0 && n->attrs.as<SliceAttrs>().begin.is_constant()) {
    auto rows = weight_rows(n->inputs[0]);
    if (rows) rows->first += n->attrs.as<SliceAttrs>().begin.constant();
    return rows;
  }
  if (n->op != &concat_op || n->attrs.as<AxisAttrs>().axis != 0) return {};
  WeightRows all;
  for (Value input : n->inputs) {
    auto part = weight_rows(input);
    bool whole = part && part->first == 0 && part->weights.size() == 1 && input.shape() == part->weights[0]->type.shape;
    if (!whole) return {};
    all.weights.push_back(part->weights[0]);
  }
  return all;
}

int Lowering::rows_slot(const WeightRows& rows, DType type) {
  bool e4m3 = type == DType::f8e4m3;
  WeightSlot wanted{{}, e4m3 ? WeightSlot::e4m3_rows : WeightSlot::rows, e4m3 ? PanelType::f32 : panel_type(type), 1};
  for (const Node* weight : rows.weights) wanted.ordinals.push_back(ordinals_.at(weight));
  return slot(wanted);
}

std::optional<View> Lowering::home(const Node* n) {
  bool placed = resident_.contains(n) || n->op == &input_op || n->op == &result_op || n->op == &constant_op;
  if (auto at = homes_.find(n); placed && at != homes_.end()) return at->second;
  if (n->op == &weight_op) return dense_view({BufferRef::weight, slot(n, WeightSlot::plain)}, n->type);
  if (n->op == &constant_op && (!is_scalar_constant(*n) || in_memory_.contains(n))) {
    program_.constants.push_back(n->attrs.as<ConstantAttrs>().value);
    return homes_[n] = dense_view({BufferRef::constant, int(program_.constants.size()) - 1}, n->type);
  }
  return {};
}

Residents Lowering::residents() {
  return {[this](const Node* n) { return home(n); }, nullptr, 0, 1};
}

std::pair<View, Dim> Lowering::rows_of(Value v) {
  View view = view_of(v.node(), residents());
  auto stride = row_stride(view);
  if (!stride) throw NeedsMemory{v.node(), resident_.contains(v.node())};
  return {view, *stride};
}

std::optional<Lowering::BatchedRows> Lowering::batched_rows(const View& view) {
  if (auto stride = row_stride(view)) {
    Dim rows = element_count({view.shape.begin() + (view.shape.size() > 1), view.shape.end() - 1});
    return BatchedRows{view, rows * *stride, *stride};
  }
  if (view.scaled() || view.shape.size() < 3) return {};
  View one = view;
  one.shape.erase(one.shape.begin());
  one.strides.erase(one.strides.begin());
  auto stride = row_stride(one);
  if (!stride) return {};
  return BatchedRows{view, view.strides[0], *stride, false};
}

Lowering::BatchedRows Lowering::batched_rows_of(Value v) {
  View view = view_of(v.node(), residents());
  auto rows = batched_rows(view);
  if (!rows) throw NeedsMemory{v.node(), resident_.contains(v.node())};
  return *rows;
}

View Lowering::writable_rows(const Node* root) {
  const View& home = homes_.at(root);
  return batched_rows(home) ? home : writable_dense(root);
}

View Lowering::writable_dense(const Node* root) {
  const View& home = homes_.at(root);
  int index = temporary(element_count(root->type.shape) * Dim(byte_size(home.dtype)));
  return dense_view({BufferRef::temporary, index}, {home.dtype, root->type.shape});
}

void Lowering::copy_home(const Node* root, const View& from) {
  const View& home = homes_.at(root);
  if (!(home.buffer == from.buffer)) copy(from, home);
}

View Lowering::dense_operand(Value v) {
  View view = view_of(v.node(), residents());
  if (!is_dense(view)) throw NeedsMemory{v.node(), resident_.contains(v.node())};
  return view;
}

}  // namespace sinter
