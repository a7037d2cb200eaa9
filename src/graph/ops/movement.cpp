// reshape, transpose, broadcast: the same elements in another arrangement.
#include <algorithm>

#include "graph/ops/support.h"

namespace sinter {
namespace {

Type reshape_type(const Node& n) {
  expect_inputs(n, 1);
  const Shape& shape = n.attrs.as<ShapeAttrs>().shape;
  expect_sizes(shape);
  Dim found = element_count(n.inputs[0].shape()), wanted = element_count(shape);
  if (found != wanted)
    fail(Code::InvalidArgument, "{} has {} elements, the input has {}", text(shape), wanted.text(), found.text());
  return {n.inputs[0].dtype(), shape};
}

Type transpose_type(const Node& n) {
  expect_inputs(n, 1);
  const auto& order = n.attrs.as<OrderAttrs>().order;
  const Shape& from = n.inputs[0].shape();
  std::vector<bool> used(from.size());
  Shape shape;
  for (int64_t axis : order) {
    if (axis < 0 || axis >= int64_t(from.size()) || used[size_t(axis)]) break;
    used[size_t(axis)] = true;
    shape.push_back(from[size_t(axis)]);
  }
  if (order.size() != from.size() || shape.size() != from.size())
    fail(Code::InvalidArgument, "the order {} must name each of {} axes once", shape_text(order), from.size());
  return {n.inputs[0].dtype(), shape};
}

Tensor transpose_reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  auto from = strides_of(inputs[0].shape());
  std::vector<int64_t> strides;
  for (int64_t axis : n.attrs.as<OrderAttrs>().order) strides.push_back(from[size_t(axis)]);
  return strided_copy(inputs[0], sizes(n.type.shape, bindings), strides);
}

std::vector<Value> transpose_gradient(const Node& n, Value g) {
  const auto& order = n.attrs.as<OrderAttrs>().order;
  std::vector<int64_t> inverse(order.size());
  for (size_t i = 0; i < order.size(); ++i) inverse[size_t(order[i])] = int64_t(i);
  return {transpose(g, inverse)};
}

Type broadcast_type(const Node& n) {
  expect_inputs(n, 1);
  const Shape &from = n.inputs[0].shape(), &to = n.attrs.as<ShapeAttrs>().shape;
  expect_sizes(to);
  if (from.size() > to.size()) fail(Code::InvalidArgument, "{} has fewer axes than the input", text(to));
  size_t added = to.size() - from.size();
  for (size_t i = 0; i < from.size(); ++i)
    if (from[i] != to[added + i] && from[i] != Dim(1))
      fail(Code::InvalidArgument, "an axis of {} cannot become {} in {}: only axes of 1 repeat", from[i].text(),
           to[added + i].text(), text(to));
  return {n.inputs[0].dtype(), to};
}

Tensor broadcast_reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  std::vector<int64_t> to = sizes(n.type.shape, bindings), strides(to.size());
  const auto& from = inputs[0].shape();
  auto from_strides = strides_of(from);
  size_t added = to.size() - from.size();
  for (size_t i = 0; i < from.size(); ++i) strides[added + i] = from[i] == to[added + i] ? from_strides[i] : 0;
  return strided_copy(inputs[0], to, strides);
}

std::vector<Value> broadcast_gradient(const Node& n, Value g) {
  const Shape &from = n.inputs[0].shape(), &to = n.type.shape;
  size_t added = to.size() - from.size();
  std::vector<int64_t> axes;
  for (size_t i = 0; i < to.size(); ++i)
    if (i < added || from[i - added] != to[i]) axes.push_back(int64_t(i));
  return {reshape(reduce_sum(g, axes), from)};
}

}  // namespace

const OpDef reshape_op = {
    .name = "reshape",
    .summary = "The same elements in the same order under another shape.",
    .infer = reshape_type,
    .reference = [](const Node& n, std::span<const Tensor> in,
                    const Bindings& bindings) { return in[0].reshaped(sizes(n.type.shape, bindings)); },
    .gradient = [](const Node& n, Value g) -> std::vector<Value> { return {reshape(g, n.inputs[0].shape())}; },
    .samples =
        [] {
          return std::vector<Sample>{{{floats({2, 3, 5})},
                                      [](Inputs v) {
                                        return reshape(v[0], {5, 6});
                                      }},
                                     {{floats({1, 1})}, [](Inputs v) { return reshape(v[0], {}); }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{
              {{floats({2, 3})}, [](Inputs v) { return reshape(v[0], {7}); }, "7 elements, the input has 6"},
              {{floats({2, 3})},
               [](Inputs v) {
                 return reshape(v[0], {-2, -3});
               },
               "negative size"}};
        },
    .read_attrs = read_attrs<ShapeAttrs>,
};

const OpDef transpose_op = {
    .name = "transpose",
    .summary = "The axes in another order.",
    .infer = transpose_type,
    .reference = transpose_reference,
    .gradient = transpose_gradient,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({2, 3})},
                                      [](Inputs v) {
                                        return transpose(v[0], {1, 0});
                                      }},
                                     {{floats({2, 3, 5, 4})},
                                      [](Inputs v) {
                                        return transpose(v[0], {0, 2, -1, 1});
                                      }},
                                     {{{DType::i16, {3, 4, 2}}},
                                      [](Inputs v) {
                                        return transpose(v[0], {2, 1, 0});
                                      },
                                      -9,
                                      9,
                                      false}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({2, 3})},
                                       [](Inputs v) {
                                         return transpose(v[0], {0, 0});
                                       },
                                       "each of 2 axes once"},
                                      {{floats({2, 3})}, [](Inputs v) { return transpose(v[0], {0}); }, "each of 2 axes once"},
                                      {{floats({2, 3})},
                                       [](Inputs v) {
                                         return transpose(v[0], {2, 0});
                                       },
                                       "axis 2 does not exist"}};
        },
    .read_attrs = read_attrs<OrderAttrs>,
};

const OpDef broadcast_op = {
    .name = "broadcast",
    .summary = "Repeats axes of size 1 and adds leading axes.",
    .infer = broadcast_type,
    .reference = broadcast_reference,
    .gradient = broadcast_gradient,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({3, 1})},
                                      [](Inputs v) {
                                        return broadcast(v[0], {2, 3, 5});
                                      }},
                                     {{floats({})}, [](Inputs v) { return broadcast(v[0], {4}); }},
                                     {{floats({1, 7, 1, 2})}, [](Inputs v) {
                                        return broadcast(v[0], {3, 7, 5, 2});
                                      }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({3, 2})},
                                       [](Inputs v) {
                                         return broadcast(v[0], {3, 4});
                                       },
                                       "only axes of 1 repeat"},
                                      {{floats({3, 1})}, [](Inputs v) { return broadcast(v[0], {3}); }, "fewer axes"}};
        },
    .read_attrs = read_attrs<ShapeAttrs>,
};

Value reshape(Value x, Shape shape) {
  if (x.shape() == shape) return x;
  return x->graph->add(reshape_op, {x}, Attrs::of(ShapeAttrs{std::move(shape)}));
}

Value transpose(Value x, std::vector<int64_t> order) {
  for (int64_t& axis : order) axis = normal_axis(axis, x.rank());
  if (int(order.size()) == x.rank() && std::is_sorted(order.begin(), order.end(), std::less_equal<>())) return x;
  return x->graph->add(transpose_op, {x}, Attrs::of(OrderAttrs{std::move(order)}));
}

Value broadcast(Value x, Shape shape) {
  if (x.shape() == shape) return x;
  return x->graph->add(broadcast_op, {x}, Attrs::of(ShapeAttrs{std::move(shape)}));
}

}  // namespace sinter
