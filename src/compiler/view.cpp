#include "compiler/view.h"

#include <algorithm>

#include "graph/ops.h"

namespace sinter {
namespace {

std::vector<Dim> dense_strides(const Shape& shape) {
  std::vector<Dim> strides(shape.size());
  Dim stride = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    stride = stride * shape[i];
  }
  return strides;
}

bool is_one(const Dim& dim) { return dim.is_constant() && dim.constant() == 1; }

/// Axes that are not 1, which is all that addressing depends on.
std::vector<size_t> real_axes(const Shape& shape) {
  std::vector<size_t> axes;
  for (size_t i = 0; i < shape.size(); ++i)
    if (!is_one(shape[i])) axes.push_back(i);
  return axes;
}

/// Moves i and j behind the shortest runs of axes with equal products; false if there are none.
bool next_group(const Shape& old_shape, const std::vector<size_t>& old_axes, size_t& i, const Shape& new_shape,
                const std::vector<size_t>& new_axes, size_t& j) {
  Dim p = 1;
  for (size_t a = i; a < old_axes.size(); ++a) {
    p = p * old_shape[old_axes[a]];
    Dim q = 1;
    for (size_t b = j; b < new_axes.size(); ++b) {
      q = q * new_shape[new_axes[b]];
      if (!(p == q)) continue;
      i = a + 1, j = b + 1;
      return true;
    }
  }
  return false;
}

}  // namespace

/// Walks both shapes in groups of axes with equal products; within a group the old axes must be one run of memory.
std::optional<View> reshaped(const View& view, const Shape& shape) {
  if (view.scaled()) return {};
  View out = view;
  out.shape = shape;
  out.strides.assign(shape.size(), Dim(0));
  std::vector<size_t> old_axes = real_axes(view.shape), new_axes = real_axes(shape);
  size_t i = 0, j = 0;
  while (i < old_axes.size() || j < new_axes.size()) {
    size_t first_old = i, first_new = j;
    if (!next_group(view.shape, old_axes, i, shape, new_axes, j)) return {};
    for (size_t a = first_old; a + 1 < i; ++a)
      if (!(view.strides[old_axes[a]] == view.strides[old_axes[a + 1]] * view.shape[old_axes[a + 1]])) return {};
    Dim stride = view.strides[old_axes[i - 1]];
    for (size_t b = j; b-- > first_new;) {
      out.strides[new_axes[b]] = stride;
      stride = stride * shape[new_axes[b]];
    }
  }
  return out;
}

View dense_view(BufferRef buffer, const Type& type) { return {buffer, type.dtype, 0, type.shape, dense_strides(type.shape), {}}; }

bool is_dense(const View& view) {
  if (view.scaled()) return false;
  std::vector<Dim> dense = dense_strides(view.shape);
  for (size_t i : real_axes(view.shape))
    if (!(view.strides[i] == dense[i])) return false;
  return true;
}

std::optional<Dim> row_stride(const View& view) {
  if (view.scaled() || view.shape.empty()) return {};
  size_t last = view.shape.size() - 1;
  if (!is_one(view.shape[last]) && !(view.strides[last] == Dim(1))) return {};
  std::vector<size_t> axes = real_axes({view.shape.begin(), view.shape.end() - 1});
  if (axes.empty()) return view.shape[last];
  for (size_t a = 0; a + 1 < axes.size(); ++a)
    if (!(view.strides[axes[a]] == view.strides[axes[a + 1]] * view.shape[axes[a + 1]])) return {};
  return view.strides[axes.back()];
}

bool is_movement(const Node& node) {
  return node.op == &reshape_op || node.op == &transpose_op || node.op == &broadcast_op || node.op == &slice_op ||
         node.op == &resize_nearest_op;
}

std::optional<View> moved(const Node& op, const View& view) {
  const Shape& shape = op.type.shape;
  if (op.op == &reshape_op) return reshaped(view, shape);
  View out = view;
  out.shape = shape;
  if (op.op == &transpose_op) {
    const auto& order = op.attrs.as<OrderAttrs>().order;
    for (size_t i = 0; i < order.size(); ++i) {
      out.strides[i] = view.strides[size_t(order[i])];
      if (view.scaled()) out.scales[i] = view.scales[size_t(order[i])];
    }
    return out;
  }
  if (op.op == &broadcast_op) {
    size_t fresh = shape.size() - view.shape.size();
    out.strides.assign(shape.size(), Dim(0));
    if (view.scaled()) out.scales.assign(shape.size(), {});
    for (size_t i = 0; i < view.shape.size(); ++i) {
      if (is_one(view.shape[i])) continue;
      out.strides[i + fresh] = view.strides[i];
      if (view.scaled()) out.scales[i + fresh] = view.scales[i];
    }
    return out;
  }
  if (op.op == &slice_op) {
    const auto& a = op.attrs.as<SliceAttrs>();
    if (view.scaled() && !(view.scales[size_t(a.axis)] == View::Scale{})) return {};
    out.offset = out.offset + a.begin * view.strides[size_t(a.axis)];
    return out;
  }
  if (op.op == &resize_nearest_op) {
    if (view.scaled()) return {};
    out.scales.assign(4, {});
    for (size_t i : {size_t(1), size_t(2)})
      if (!(view.shape[i] == shape[i])) out.scales[i] = {view.shape[i], shape[i]};
    return out;
  }
  return {};
}

}  // namespace sinter
