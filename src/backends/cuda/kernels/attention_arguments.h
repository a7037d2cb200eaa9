#pragma once
#include <stdint.h>

namespace sinter::device {

/// Where element (b, t, h, d) of a tensor is: strides in elements; d lies dense.
struct HeadsArguments {
  uint64_t base = 0;
  int64_t b = 0, t = 0, h = 0;
};

/// bias[b * bias.b + h * bias.h + query * bias.t + key * key_stride] of an ElementType; base 0: none.
struct BiasArguments {
  HeadsArguments at;
  int64_t key_stride = 1;
  int type = 0;
};

struct AttentionArguments {
  HeadsArguments q, k, v, out;
  BiasArguments bias;
  int queries = 0, keys = 0, d = 0;
  int causal = 0;
  float scale = 1;
};

/// Rows of scores [head][query][key], dense f32; probabilities [head][query][key], dense, of `type`, maybe in the same place.
struct SoftmaxArguments {
  uint64_t scores = 0, out = 0;
  BiasArguments bias;
  int64_t b = 0;  ///< batch entry, for the bias
  int first_query = 0, queries = 0, keys = 0;
  int causal = 0, type = 0;
};

}  // namespace sinter::device
