#include <cstring>

#include "graph/ops/support.h"

namespace sinter {
namespace {

Type infer(const Node& n) {
  expect_inputs(n, 1);
  Value x = n.inputs[0];
  const auto& attrs = n.attrs.as<ResizeAttrs>();
  expect_rank(x, 4, "x");
  Shape shape{x.dim(0), attrs.height, attrs.width, x.dim(3)};
  expect_sizes(shape);
  for (int axis : {1, 2})
    if (x.dim(axis) == Dim(0)) fail(Code::InvalidArgument, "a picture without pixels cannot be resized");
  return {x.dtype(), shape};
}

Tensor reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  const Tensor& x = inputs[0];
  Tensor out = result_of(n, bindings);
  int64_t pixel = x.dim(3) * byte_size(x.dtype());
  if (pixel == 0) return out;
  std::byte* to = out.data();
  for (int64_t image = 0; image < out.dim(0); ++image)
    for (int64_t y = 0; y < out.dim(1); ++y)
      for (int64_t column = 0; column < out.dim(2); ++column, to += pixel) {
        int64_t from_y = y * x.dim(1) / out.dim(1), from_x = column * x.dim(2) / out.dim(2);
        std::memcpy(to, x.data() + ((image * x.dim(1) + from_y) * x.dim(2) + from_x) * pixel, size_t(pixel));
      }
  return out;
}

/// [from, to]: 1 where the output `to` takes the input `from`.
Value selection(Graph& graph, const Dim& from, const Dim& to, DType dtype) {
  Value input = iota(graph, {from, to}, 0, DType::i64), output = iota(graph, {from, to}, 1, DType::i64);
  Value scaled_output = output * size_value(graph, from, DType::i64), step = size_value(graph, to, DType::i64);
  // input = floor(output * from / to)  <=>  input * to <= output * from < (input + 1) * to
  Value too_small = elementwise("less_than", {scaled_output, input * step});
  Value small_enough = elementwise("less_than", {scaled_output, (input + 1.0) * step});
  return cast(small_enough - too_small, dtype);
}

/// Sums over an axis of the output what each input gave to it.
Value gather_axis(Value g, int axis, const Dim& from) {
  const Dim& to = g.dim(axis);
  if (from == to) return g;
  Shape shape = g.shape();
  if (auto times = exact_div(to, from)) {
    shape[size_t(axis)] = from;
    shape.insert(shape.begin() + axis + 1, *times);
    Value sums = reduce_sum(reshape(g, shape), {axis + 1});
    shape.erase(shape.begin() + axis + 1);
    return reshape(sums, shape);
  }
  std::vector<int64_t> swapped{0, 1, 2, 3};
  std::swap(swapped[size_t(axis)], swapped[3]);
  Value columns = transpose(g, swapped);
  Value matrix = transpose(selection(*g->graph, from, to, g.dtype()), {1, 0});
  Shape result = columns.shape();
  result[3] = from;
  Dim rows = columns.dim(0) * columns.dim(1) * columns.dim(2);
  return transpose(reshape(matmul(reshape(columns, {rows, to}), matrix), result), swapped);
}

}  // namespace

const OpDef resize_nearest_op = {
    .name = "resize_nearest",
    .summary = "A picture at another size; each output takes the nearest input above and to the left.",
    .infer = infer,
    .reference = reference,
    .gradient = [](const Node& n, Value g) -> std::vector<Value> {
      return {gather_axis(gather_axis(g, 1, n.inputs[0].dim(1)), 2, n.inputs[0].dim(2))};
    },
    .samples =
        [] {
          return std::vector<Sample>{{{floats({1, 2, 3, 2})}, [](Inputs v) { return resize_nearest(v[0], 4, 6); }},
                                     {{floats({2, 3, 5, 1})}, [](Inputs v) { return resize_nearest(v[0], 5, 3); }},
                                     {{floats({1, 4, 4, 3})}, [](Inputs v) { return resize_nearest(v[0], 2, 7); }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{
              {{floats({2, 3, 5})}, [](Inputs v) { return resize_nearest(v[0], 5, 3); }, "x must have rank 4"},
              {{floats({1, 0, 5, 1})}, [](Inputs v) { return resize_nearest(v[0], 5, 3); }, "without pixels"}};
        },
    .read_attrs = read_attrs<ResizeAttrs>,
};

Value resize_nearest(Value x, Dim height, Dim width) {
  if (x.rank() == 4 && x.dim(1) == height && x.dim(2) == width) return x;
  return x->graph->add(resize_nearest_op, {x}, Attrs::of(ResizeAttrs{std::move(height), std::move(width)}));
}

}  // namespace sinter
