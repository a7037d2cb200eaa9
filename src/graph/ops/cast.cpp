#include "graph/ops/support.h"

namespace sinter {

const OpDef cast_op = {
    .name = "cast",
    .summary = "Another element type: floats round to nearest even, floats to integers truncate.",
    .infer =
        [](const Node& n) {
          expect_inputs(n, 1);
          return Type{n.attrs.as<CastAttrs>().dtype, n.inputs[0].shape()};
        },
    .reference = [](const Node& n, std::span<const Tensor> in, const Bindings&) { return in[0].to(n.type.dtype); },
    .gradient = [](const Node& n, Value g) -> std::vector<Value> {
      bool smooth = is_float(n.inputs[0].dtype()) && is_float(n.type.dtype);
      return {smooth ? cast(g, n.inputs[0].dtype()) : Value()};
    },
    .samples =
        [] {
          return std::vector<Sample>{{{floats({2, 3})}, [](Inputs v) { return cast(v[0], DType::f16); }, -1, 1, false},
                                     {{floats({4})},
                                      [](Inputs v) { return cast(v[0], v[0].dtype() == DType::f64 ? DType::f32 : DType::f64); },
                                      -1,
                                      1,
                                      false},
                                     {{{DType::i32, {7}}}, [](Inputs v) { return cast(v[0], DType::f32); }, -9, 9, false}};
        },
    .read_attrs = read_attrs<CastAttrs>,
};

Value cast(Value x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return x->graph->add(cast_op, {x}, Attrs::of(CastAttrs{dtype}));
}

}  // namespace sinter
