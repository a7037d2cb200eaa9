#include <cmath>

#include "graph/ops/support.h"

namespace sinter {
namespace {

Type infer(const Node& n) {
  expect_inputs(n, 1);
  Value t = n.inputs[0];
  const auto& attrs = n.attrs.as<TimestepAttrs>();
  expect_float(t, "t");
  expect_rank(t, 1, "t");
  if (attrs.size < 2 || attrs.size % 2 != 0)
    fail(Code::InvalidArgument, "the size must be even and positive, not {}", attrs.size);
  if (!(attrs.max_period > 0)) fail(Code::InvalidArgument, "the longest period must be positive, not {}", attrs.max_period);
  return {t.dtype(), {t.dim(0), attrs.size}};
}

Value expand(const Node& n) {
  const auto& attrs = n.attrs.as<TimestepAttrs>();
  DType wide = n.type.dtype == DType::f64 ? DType::f64 : DType::f32;
  Value t = reshape(cast(n.inputs[0], wide), {n.inputs[0].dim(0), 1});
  // Multiplied, then divided: models were trained with this order of rounding.
  Value exponent = iota(*n.graph, {Dim(attrs.size / 2)}, 0, wide) * -std::log(attrs.max_period);
  Value angles = t * exp(exponent / scalar(*n.graph, double(attrs.size / 2), wide));
  return cast(concat({cos(angles), sin(angles)}, -1), n.type.dtype);
}

}  // namespace

const OpDef timestep_embedding_op = {
    .name = "timestep_embedding",
    .summary = "Cosines and sines of a time at geometrically spaced frequencies.",
    .infer = infer,
    .expand = expand,
    .samples =
        [] {
          return std::vector<Sample>{{{floats({3})}, [](Inputs v) { return timestep_embedding(v[0], 8); }, 0, 20},
                                     {{floats({1})}, [](Inputs v) { return timestep_embedding(v[0], 2, 100); }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{
              {{floats({3})}, [](Inputs v) { return timestep_embedding(v[0], 7); }, "must be even"},
              {{floats({3, 1})}, [](Inputs v) { return timestep_embedding(v[0], 8); }, "t must have rank 1"},
              {{floats({3})}, [](Inputs v) { return timestep_embedding(v[0], 8, 0); }, "must be positive"}};
        },
    .read_attrs = read_attrs<TimestepAttrs>,
};

Value timestep_embedding(Value t, int64_t size, double max_period) {
  return t->graph->add(timestep_embedding_op, {t}, Attrs::of(TimestepAttrs{size, max_period}));
}

}  // namespace sinter
