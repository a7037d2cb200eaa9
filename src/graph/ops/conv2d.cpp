#include "graph/ops/product.h"
#include "graph/ops/support.h"

namespace sinter {
namespace {

constexpr int64_t kLargestPadding = int64_t(1) << 31;

Dim output_size(const Dim& size, int64_t before, int64_t after, const Dim& kernel, int64_t stride) {
  Dim room = size + Dim(before + after) - kernel;
  if (room.is_constant() && room.constant() < 0)
    fail(Code::InvalidArgument, "the kernel of {} is larger than the padded input, {} + {}", kernel.text(), size.text(),
         before + after);
  return floor_div(room, stride) + Dim(1);
}

Type infer(const Node& n) {
  expect_inputs(n, 2);
  Value x = n.inputs[0], w = n.inputs[1];
  const auto& a = n.attrs.as<ConvAttrs>();
  expect_float(x, "x");
  expect_same_dtype(n);
  expect_rank(x, 4, "x");
  expect_rank(w, 4, "the weight");
  if (x.dim(3) != w.dim(1))
    fail(Code::InvalidArgument, "x has {} channels, the weight expects {}", x.dim(3).text(), w.dim(1).text());
  if (a.stride < 1) fail(Code::InvalidArgument, "the stride must be at least 1, not {}", a.stride);
  for (int64_t padding : {a.top, a.left, a.bottom, a.right})
    if (padding < 0 || padding > kLargestPadding)
      fail(Code::InvalidArgument, "the padding must not be negative nor above {}, but is {}", kLargestPadding, padding);
  return {x.dtype(),
          {x.dim(0), output_size(x.dim(1), a.top, a.bottom, w.dim(2), a.stride),
           output_size(x.dim(2), a.left, a.right, w.dim(3), a.stride), w.dim(0)}};
}

struct ConvSizes {
  int64_t height, width, channels, kernel_height, kernel_width, out_height, out_width;
  ConvAttrs attrs;
};

/// One row of the left factor: what the kernel sees at one output position, as [kernel y][kernel x][channel].
template <class T>
ProductFill patches_of(const T* x, const ConvSizes& s) {
  return [=](int64_t line, int64_t begin, int64_t count, double* out) {
    int64_t ox = line % s.out_width, oy = line / s.out_width % s.out_height, image = line / (s.out_width * s.out_height);
    while (count > 0) {
      int64_t tap = begin / s.channels, channel = begin % s.channels, length = std::min(count, s.channels - channel);
      int64_t y = oy * s.attrs.stride - s.attrs.top + tap / s.kernel_width;
      int64_t column = ox * s.attrs.stride - s.attrs.left + tap % s.kernel_width;
      bool inside = y >= 0 && y < s.height && column >= 0 && column < s.width;
      const T* from = inside ? x + ((image * s.height + y) * s.width + column) * s.channels + channel : nullptr;
      for (int64_t i = 0; i < length; ++i) out[i] = inside ? double(from[i]) : 0.0;
      begin += length, count -= length, out += length;
    }
  };
}

Tensor reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  Tensor result;
  with_real(n.type.dtype, [&]<class T>(T) {
    Tensor x = inputs[0].to(real_dtype<T>), w = inputs[1].to(real_dtype<T>), out(real_dtype<T>, sizes(n.type.shape, bindings));
    ConvSizes s{x.dim(1), x.dim(2), x.dim(3), w.dim(2), w.dim(3), out.dim(1), out.dim(2), n.attrs.as<ConvAttrs>()};
    int64_t taps = s.kernel_height * s.kernel_width, depth = taps * s.channels, columns = w.dim(0);
    // To [out, kernel y, kernel x, channel], the order of the patches.
    Tensor kernel = strided_copy(w, {columns, taps, s.channels}, std::vector<int64_t>{depth, 1, taps});
    const T* weights = reals<T>(kernel);
    auto right = [=](int64_t line, int64_t begin, int64_t count, double* to) {
      for (int64_t i = 0; i < count; ++i) to[i] = double(weights[line * depth + begin + i]);
    };
    T* results = reals<T>(out);
    auto store = [=](int64_t row, int64_t column, int64_t count, const double* values) {
      for (int64_t i = 0; i < count; ++i) results[row * columns + column + i] = T(values[i]);
    };
    product(out.dim(0) * out.dim(1) * out.dim(2), columns, depth, patches_of(reals<T>(x), s), right, store);
    result = out.to(n.type.dtype);
  });
  return result;
}

/// `stride` - 1 zeros after each element of axes 1 and 2.
Value spread(Value g, int64_t stride) {
  if (stride == 1) return g;
  for (int axis : {1, 2}) {
    Shape shape = g.shape();
    shape.insert(shape.begin() + axis + 1, Dim(1));
    Shape zeros = shape;
    zeros[size_t(axis) + 1] = stride - 1;
    Value wide = concat({reshape(g, shape), broadcast(scalar(*g->graph, 0, g.dtype()), zeros)}, axis + 1);
    Shape merged = g.shape();
    merged[size_t(axis)] = merged[size_t(axis)] * Dim(stride);
    g = reshape(wide, merged);
  }
  return g;
}

Value reversed(Value x, int axis) {
  std::vector<Value> parts;
  for (int64_t i = x.dim(axis).constant(); i-- > 0;) parts.push_back(slice(x, axis, i, 1));
  return concat(parts, axis);
}

/// x is hit by every output that saw it: the spread gradient, convolved with the kernel turned around.
Value gradient_by_input(const Node& n, Value spread_gradient) {
  Value x = n.inputs[0], w = n.inputs[1];
  const auto& a = n.attrs.as<ConvAttrs>();
  int64_t kh = w.dim(2).constant(), kw = w.dim(3).constant();
  Value turned = transpose(reversed(reversed(w, 2), 3), {1, 0, 2, 3});
  // Every position at which the two overlap; those in the padding are cut off.
  Value full = conv2d(spread_gradient, turned, {1, kh - 1, kw - 1, kh - 1, kw - 1});
  return slice(slice(full, 1, a.top, x.dim(1)), 2, a.left, x.dim(2));
}

/// The kernel's element (y, x) meets the input shifted by (y, x): a convolution of the input with the gradient, with batch and
/// channels in each other's place.
Value gradient_by_kernel(const Node& n, Value spread_gradient) {
  Value x = n.inputs[0], w = n.inputs[1];
  const auto& a = n.attrs.as<ConvAttrs>();
  int64_t more = a.stride - 1;  // the zeros after the last element need room
  Value sums = conv2d(transpose(x, {3, 1, 2, 0}), transpose(spread_gradient, {3, 0, 1, 2}),
                      {1, a.top, a.left, a.bottom + more, a.right + more});
  return transpose(slice(slice(sums, 1, 0, w.dim(2)), 2, 0, w.dim(3)), {3, 0, 1, 2});
}

}  // namespace

const OpDef conv2d_op = {
    .name = "conv2d",
    .summary = "Two-dimensional convolution, channels last, with zero padding.",
    .infer = infer,
    .reference = reference,
    .gradient = [](const Node& n, Value g) -> std::vector<Value> {
      Value wide = spread(g, n.attrs.as<ConvAttrs>().stride);
      return {gradient_by_input(n, wide), gradient_by_kernel(n, wide)};
    },
    .samples =
        [] {
          return std::vector<Sample>{
              {{floats({1, 5, 4, 3}), floats({2, 3, 3, 3})},
               [](Inputs v) {
                 return conv2d(v[0], v[1], {1, 1, 1, 1, 1});
               }},
              {{floats({2, 6, 7, 2}), floats({3, 2, 3, 3})},
               [](Inputs v) {
                 return conv2d(v[0], v[1], {2, 0, 1, 1, 0});
               }},
              {{floats({1, 3, 3, 4}), floats({5, 4, 1, 1})}, [](Inputs v) { return conv2d(v[0], v[1], {}); }},
              {{floats({1, 8, 8, 2}), floats({3, 2, 4, 4})},
               [](Inputs v) {
                 return conv2d(v[0], v[1], {4, 0, 0, 0, 0});
               }},
              {{floats({1, 7, 5, 1}), floats({1, 1, 2, 3})}, [](Inputs v) {
                 return conv2d(v[0], v[1], {3, 2, 0, 3, 1});
               }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{
              {{floats({1, 5, 5, 3}), floats({2, 4, 3, 3})},
               [](Inputs v) { return conv2d(v[0], v[1], {}); },
               "x has 3 channels, the weight expects 4"},
              {{floats({1, 2, 5, 3}), floats({2, 3, 3, 3})},
               [](Inputs v) { return conv2d(v[0], v[1], {}); },
               "larger than the padded input"},
              {{floats({1, 5, 5, 3}), floats({2, 3, 3, 3})},
               [](Inputs v) { return conv2d(v[0], v[1], {0}); },
               "stride must be at least 1"},
              {{floats({1, 5, 5, 3}), floats({2, 3, 3, 3})},
               [](Inputs v) {
                 return conv2d(v[0], v[1], {1, -1});
               },
               "must not be negative"},
              {{floats({5, 5, 3}), floats({2, 3, 3, 3})}, [](Inputs v) { return conv2d(v[0], v[1], {}); }, "x must have rank 4"}};
        },
    .read_attrs = read_attrs<ConvAttrs>,
};

Value conv2d(Value x, Value w, ConvAttrs attrs) { return x->graph->add(conv2d_op, {x, w}, Attrs::of(attrs)); }

}  // namespace sinter
