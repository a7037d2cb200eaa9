#include <cstring>

#include "graph/ops/support.h"

namespace sinter {
namespace {

Type swap_pairs_type(const Node& n) {
  expect_inputs(n, 1);
  const Shape& shape = n.inputs[0].shape();
  if (shape.empty() || !exact_div(shape.back(), 2))
    fail(Code::InvalidArgument, "{} has no last axis of even size", n.inputs[0]->type.text());
  return n.inputs[0]->type;
}

Tensor swap_pairs_reference(const Node& n, std::span<const Tensor> in, const Bindings& bindings) {
  Tensor out = result_of(n, bindings);
  auto size = size_t(byte_size(n.type.dtype));
  const auto* from = reinterpret_cast<const char*>(in[0].data());
  auto* to = reinterpret_cast<char*>(out.data());
  for (int64_t i = 0; i < in[0].count(); ++i) std::memcpy(to + size_t(i) * size, from + size_t(i ^ 1) * size, size);
  return out;
}

}  // namespace

const OpDef swap_pairs_op = {
    .name = "swap_pairs",
    .summary = "Elements 2n and 2n + 1 of the last axis change places.",
    .infer = swap_pairs_type,
    .reference = swap_pairs_reference,
    .gradient = [](const Node&, Value g) -> std::vector<Value> { return {swap_pairs(g)}; },
    .samples =
        [] {
          auto swapped = [](Inputs v) { return swap_pairs(v[0]); };
          // Movement above and below: the pairs are those of the op's own input.
          auto moved = [](Inputs v) { return transpose(swap_pairs(transpose(v[0], {1, 0})), {1, 0}) * v[0]; };
          auto split = [](Inputs v) { return reshape(swap_pairs(v[0]), {4, 3, 2}) * 2.0; };
          return std::vector<Sample>{{{floats({3, 5, 6})}, swapped},
                                     {{floats({34})}, swapped},
                                     {{floats({4, 3})}, moved},
                                     {{floats({4, 6})}, split},
                                     {{{DType::i16, {3, 4}}}, swapped, -9, 9, false}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({4, 3})}, [](Inputs v) { return swap_pairs(v[0]); }, "last axis of even size"},
                                      {{floats({})}, [](Inputs v) { return swap_pairs(v[0]); }, "last axis of even size"}};
        },
};

Value swap_pairs(Value x) { return x->graph->add(swap_pairs_op, {x}); }

}  // namespace sinter
