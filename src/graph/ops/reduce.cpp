// reduce_sum, reduce_max and mean.
#include <algorithm>
#include <limits>

#include "graph/ops/support.h"

namespace sinter {
namespace {

Type reduced_type(const Node& n) {
  expect_inputs(n, 1);
  Shape shape = n.inputs[0].shape();
  int64_t last = -1;
  for (int64_t axis : n.attrs.as<AxesAttrs>().axes) {
    if (axis <= last || axis >= int64_t(shape.size()))
      fail(Code::InvalidArgument, "the axes {} must be ascending axes of {}", shape_text(n.attrs.as<AxesAttrs>().axes),
           n.inputs[0]->type.text());
    shape[size_t(last = axis)] = 1;
  }
  return {n.inputs[0].dtype(), shape};
}

/// Steps of one index walk: for each kept or reduced axis its size and its stride in the input.
struct Walk {
  std::vector<int64_t> sizes, strides;
  int64_t count = 1;
  void add(int64_t size, int64_t stride) {
    sizes.push_back(size), strides.push_back(stride);
    count *= size;
  }
  int64_t offset(int64_t index) const {
    int64_t at = 0;
    for (size_t i = sizes.size(); i-- > 0; index /= sizes[i]) at += index % sizes[i] * strides[i];
    return at;
  }
};

/// Element = the type read, Sum = the type in which it is combined.
template <class Element, class Sum, class Combine>
Tensor reduce(const Node& n, const Tensor& x, DType element, Sum start, Combine combine) {
  Tensor from = x.to(element), out(element, x.shape());
  const auto& axes = n.attrs.as<AxesAttrs>().axes;
  auto strides = strides_of(x.shape());
  std::vector<int64_t> shape = x.shape();
  Walk kept, reduced;
  for (size_t i = 0; i < shape.size(); ++i) {
    bool reduce = std::find(axes.begin(), axes.end(), int64_t(i)) != axes.end();
    (reduce ? reduced : kept).add(shape[i], strides[i]);
    if (reduce) shape[i] = 1;
  }
  out = Tensor(element, shape);
  // Innermost reduced axis apart: its elements are read in one loop.
  int64_t length = reduced.sizes.empty() ? 1 : reduced.sizes.back(), step = reduced.sizes.empty() ? 0 : reduced.strides.back();
  if (!reduced.sizes.empty()) reduced.sizes.pop_back(), reduced.strides.pop_back();
  int64_t outer = length ? reduced.count / length : 0;
  auto* in = reinterpret_cast<const Element*>(from.data());
  auto* results = reinterpret_cast<Element*>(out.data());
  in_parallel(kept.count, std::max<int64_t>(1, 16384 / std::max<int64_t>(1, reduced.count)), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Sum sum = start;
      const Element* base = in + kept.offset(i);
      for (int64_t j = 0; j < outer; ++j) {
        const Element* row = base + reduced.offset(j);
        for (int64_t k = 0; k < length; ++k) sum = combine(sum, Sum(row[k * step]));
      }
      results[i] = Element(sum);
    }
  });
  return out.to(n.type.dtype);
}

Tensor sum_reference(const Node& n, std::span<const Tensor> inputs, const Bindings&) {
  auto add = [](auto a, auto b) { return a + b; };
  if (!is_float(n.type.dtype)) return reduce<uint64_t, uint64_t>(n, inputs[0], DType::i64, uint64_t(0), add);  // wraps
  if (n.type.dtype == DType::f64) return reduce<double, double>(n, inputs[0], DType::f64, 0.0, add);
  return reduce<float, double>(n, inputs[0], DType::f32, 0.0, add);
}

Tensor max_reference(const Node& n, std::span<const Tensor> inputs, const Bindings&) {
  auto larger = [](auto a, auto b) { return a != a || a > b ? a : b; };  // NaN stays
  constexpr double lowest = -std::numeric_limits<double>::infinity();
  if (!is_float(n.type.dtype))
    return reduce<int64_t, int64_t>(n, inputs[0], DType::i64, std::numeric_limits<int64_t>::min(), larger);
  return reduce<double, double>(n, inputs[0], DType::f64, lowest, larger);
}

std::vector<Value> max_gradient(const Node& n, Value g) {
  // Equal largest elements share the gradient.
  Value x = n.inputs[0];
  Value is_max = -elementwise("less_than", {x, Value(&n)}) + 1.0;
  return {is_max * (g / reduce_sum(is_max, n.attrs.as<AxesAttrs>().axes))};
}

Value reduced(const OpDef& op, Value x, std::vector<int64_t> axes) {
  for (int64_t& axis : axes) axis = normal_axis(axis, x.rank());
  std::sort(axes.begin(), axes.end());
  if (axes.empty()) return x;
  return x->graph->add(op, {x}, Attrs::of(AxesAttrs{std::move(axes)}));
}

}  // namespace

const OpDef reduce_sum_op = {
    .name = "reduce_sum",
    .summary = "The sum over some axes, which stay with size 1.",
    .infer = reduced_type,
    .reference = sum_reference,
    .gradient = [](const Node& n, Value g) -> std::vector<Value> { return {broadcast(g, n.inputs[0].shape())}; },
    .samples =
        [] {
          return std::vector<Sample>{{{floats({3, 5})}, [](Inputs v) { return reduce_sum(v[0], {-1}); }},
                                     {{floats({2, 3, 4, 5})},
                                      [](Inputs v) {
                                        return reduce_sum(v[0], {3, 1});
                                      }},
                                     {{floats({4, 3})},
                                      [](Inputs v) {
                                        return reduce_sum(v[0], {0, 1});
                                      }},
                                     {{{DType::i32, {3, 4}}}, [](Inputs v) { return reduce_sum(v[0], {0}); }, -9, 9, false}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({3, 5})}, [](Inputs v) { return reduce_sum(v[0], {2}); }, "axis 2 does not exist"},
                                      {{floats({3, 5})},
                                       [](Inputs v) {
                                         return reduce_sum(v[0], {1, 1});
                                       },
                                       "ascending"}};
        },
    .read_attrs = read_attrs<AxesAttrs>,
};

const OpDef reduce_max_op = {
    .name = "reduce_max",
    .summary = "The largest element over some axes, which stay with size 1.",
    .infer = reduced_type,
    .reference = max_reference,
    .gradient = max_gradient,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({3, 5})}, [](Inputs v) { return reduce_max(v[0], {-1}); }},
                                     {{floats({2, 3, 4, 5})},
                                      [](Inputs v) {
                                        return reduce_max(v[0], {3, 1});
                                      }},
                                     {{floats({4, 3})},
                                      [](Inputs v) {
                                        return reduce_max(v[0], {0, 1});
                                      }},
                                     {{{DType::i32, {3, 4}}}, [](Inputs v) { return reduce_max(v[0], {0}); }, -9, 9, false}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({3, 5})}, [](Inputs v) { return reduce_max(v[0], {2}); }, "axis 2 does not exist"},
                                      {{floats({3, 5})},
                                       [](Inputs v) {
                                         return reduce_max(v[0], {1, 1});
                                       },
                                       "ascending"}};
        },
    .read_attrs = read_attrs<AxesAttrs>,
};

Value reduce_sum(Value x, std::vector<int64_t> axes) { return reduced(reduce_sum_op, x, std::move(axes)); }
Value reduce_max(Value x, std::vector<int64_t> axes) { return reduced(reduce_max_op, x, std::move(axes)); }

Value size_value(Graph& graph, const Dim& dim, DType dtype) {
  if (dim.is_constant()) return scalar(graph, double(dim.constant()), dtype);
  return reshape(reduce_sum(broadcast(scalar(graph, 1, dtype), {dim}), {0}), {});
}

Value mean(Value x, std::vector<int64_t> axes) {
  expect_float(x, "the argument of mean");
  if (byte_size(x.dtype()) < 4) return cast(mean(cast(x, DType::f32), std::move(axes)), x.dtype());
  Graph& graph = *x->graph;
  int64_t known = 1;
  Value unknown;
  for (int64_t axis : axes) {
    const Dim& dim = x.dim(int(axis));
    if (dim.is_constant()) {
      known *= dim.constant();
    } else {
      Value size = size_value(graph, dim, x.dtype());
      unknown = unknown ? unknown * size : size;
    }
  }
  Value count = scalar(graph, double(known), x.dtype());
  return reduce_sum(x, std::move(axes)) / (unknown ? unknown * count : count);
}

}  // namespace sinter
