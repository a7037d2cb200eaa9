// slice and concat: parts of an axis.
#include <cstring>

#include "graph/ops/support.h"

namespace sinter {
namespace {

size_t checked_axis(int64_t axis, Value x) {
  if (axis < 0 || axis >= x.rank()) fail(Code::InvalidArgument, "axis {} does not exist in {}", axis, x->type.text());
  return size_t(axis);
}

Type slice_type(const Node& n) {
  expect_inputs(n, 1);
  const auto& attrs = n.attrs.as<SliceAttrs>();
  Shape shape = n.inputs[0].shape();
  Dim& size = shape[checked_axis(attrs.axis, n.inputs[0])];
  Dim rest = size - attrs.begin - attrs.length;
  for (const Dim& dim : {attrs.begin, attrs.length, rest})
    if (dim.is_constant() && dim.constant() < 0)
      fail(Code::InvalidArgument, "{} elements from {} on do not lie in axis {} of size {}", attrs.length.text(),
           attrs.begin.text(), attrs.axis, size.text());
  size = attrs.length;
  return {n.inputs[0].dtype(), shape};
}

Tensor slice_reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  const auto& attrs = n.attrs.as<SliceAttrs>();
  auto strides = strides_of(inputs[0].shape());
  int64_t begin = attrs.begin.value(bindings), length = attrs.length.value(bindings), size = inputs[0].dim(int(attrs.axis));
  if (begin < 0 || length < 0 || begin + length > size)
    fail(Code::InvalidArgument, "slice: {} elements from {} on do not lie in axis {} of {}", length, begin, attrs.axis,
         shape_text(inputs[0].shape()));
  return strided_copy(inputs[0], sizes(n.type.shape, bindings), strides, begin * strides[size_t(attrs.axis)]);
}

std::vector<Value> slice_gradient(const Node& n, Value g) {
  const auto& attrs = n.attrs.as<SliceAttrs>();
  std::vector<Value> parts;
  auto add_zeros = [&](const Dim& length) {
    if (length == Dim(0)) return;
    Shape shape = n.type.shape;
    shape[size_t(attrs.axis)] = length;
    parts.push_back(broadcast(scalar(*n.graph, 0, g.dtype()), shape));
  };
  add_zeros(attrs.begin);
  parts.push_back(g);
  add_zeros(n.inputs[0].dim(int(attrs.axis)) - attrs.begin - attrs.length);
  return {concat(parts, int(attrs.axis))};
}

Type concat_type(const Node& n) {
  if (n.inputs.empty()) fail(Code::InvalidArgument, "takes at least one input");
  expect_same_dtype(n);
  int64_t axis = n.attrs.as<AxisAttrs>().axis;
  Shape shape = n.inputs[0].shape();
  size_t at = checked_axis(axis, n.inputs[0]);
  for (size_t i = 1; i < n.inputs.size(); ++i) {
    Shape other = n.inputs[i].shape();
    Dim total = other.size() == shape.size() ? shape[at] + other[at] : Dim(0);
    if (other.size() == shape.size()) other[at] = shape[at];
    if (other != shape)
      fail(Code::InvalidArgument, "inputs may differ in axis {} only, not {} and {}", axis, n.inputs[0]->type.text(),
           n.inputs[i]->type.text());
    shape[at] = total;
  }
  return {n.inputs[0].dtype(), shape};
}

Tensor concat_reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  Tensor out = result_of(n, bindings);
  size_t axis = size_t(n.attrs.as<AxisAttrs>().axis);
  int64_t outer = 1, inner = byte_size(out.dtype());
  for (size_t i = 0; i < axis; ++i) outer *= out.shape()[i];
  for (size_t i = axis + 1; i < out.shape().size(); ++i) inner *= out.shape()[i];
  int64_t at = 0, row = out.shape()[axis] * inner;
  for (const Tensor& part : inputs) {
    int64_t bytes = part.shape()[axis] * inner;
    for (int64_t i = 0; bytes > 0 && i < outer; ++i)
      std::memcpy(out.data() + i * row + at, part.data() + i * bytes, size_t(bytes));
    at += bytes;
  }
  return out;
}

std::vector<Value> concat_gradient(const Node& n, Value g) {
  int axis = int(n.attrs.as<AxisAttrs>().axis);
  std::vector<Dim> lengths;
  for (Value v : n.inputs) lengths.push_back(v.dim(axis));
  return split(g, lengths, axis);
}

}  // namespace

const OpDef slice_op = {
    .name = "slice",
    .summary = "A contiguous part of one axis.",
    .infer = slice_type,
    .reference = slice_reference,
    .gradient = slice_gradient,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({5, 3})}, [](Inputs v) { return slice(v[0], 0, 1, 3); }},
                                     {{floats({2, 7, 3})}, [](Inputs v) { return slice(v[0], -2, 0, 6); }},
                                     {{floats({2, 7})}, [](Inputs v) { return slice(v[0], 1, 6, 1); }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{
              {{floats({5, 3})}, [](Inputs v) { return slice(v[0], 0, 3, 3); }, "do not lie in axis 0 of size 5"},
              {{floats({5, 3})}, [](Inputs v) { return slice(v[0], 0, -1, 3); }, "do not lie"},
              {{floats({5, 3})}, [](Inputs v) { return slice(v[0], 2, 0, 1); }, "axis 2 does not exist"},
              {{floats({5})},
               [](Inputs v) {
                 return split(v[0], {2, 2}, 0)[0];
               },
               "make 4, not 5"}};
        },
    .read_attrs = read_attrs<SliceAttrs>,
};

const OpDef concat_op = {
    .name = "concat",
    .summary = "Inputs one after the other along one axis.",
    .infer = concat_type,
    .reference = concat_reference,
    .gradient = concat_gradient,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({2, 3}), floats({2, 1}), floats({2, 4})},
                                      [](Inputs v) {
                                        return concat({v[0], v[1], v[2]}, 1);
                                      }},
                                     {{floats({2, 3, 2}), floats({1, 3, 2})}, [](Inputs v) {
                                        return concat({v[0], v[1], v[0]}, -3);
                                      }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({2, 3}), floats({3, 3})},
                                       [](Inputs v) {
                                         return concat({v[0], v[1]}, 1);
                                       },
                                       "differ in axis 1 only"},
                                      {{floats({2, 3}), floats({2})},
                                       [](Inputs v) {
                                         return concat({v[0], v[1]}, 0);
                                       },
                                       "differ in axis 0 only"},
                                      {{floats({2}), {DType::f16, {2}}},
                                       [](Inputs v) {
                                         return concat({v[0], v[1]}, 0);
                                       },
                                       "one dtype"}};
        },
    .read_attrs = read_attrs<AxisAttrs>,
};

Value slice(Value x, int axis, Dim begin, Dim length) {
  int64_t at = normal_axis(axis, x.rank());
  if (begin == Dim(0) && length == x.dim(int(at))) return x;
  return x->graph->add(slice_op, {x}, Attrs::of(SliceAttrs{at, std::move(begin), std::move(length)}));
}

std::vector<Value> split(Value x, const std::vector<Dim>& lengths, int axis) {
  std::vector<Value> parts;
  Dim begin = 0;
  for (const Dim& length : lengths) {
    parts.push_back(slice(x, axis, begin, length));
    begin = begin + length;
  }
  if (begin != x.dim(axis))
    fail(Code::InvalidArgument, "split({}): the parts of axis {} make {}, not {}", x->type.text(), axis, begin.text(),
         x.dim(axis).text());
  return parts;
}

Value concat(std::vector<Value> parts, int axis) {
  if (parts.empty()) fail(Code::InvalidArgument, "concat: takes at least one input");
  int64_t at = normal_axis(axis, parts[0].rank());
  if (parts.size() == 1) return parts[0];
  Graph& graph = *parts[0]->graph;
  return graph.add(concat_op, std::move(parts), Attrs::of(AxisAttrs{at}));
}

}  // namespace sinter
