#pragma once
#include <cstdint>

namespace sinter::cuda {

/// Where element (b, t, h, d) of a tensor is: strides in elements; d lies dense.
struct HeadStrides {
  int64_t b = 0, t = 0, h = 0;
  bool operator==(const HeadStrides&) const = default;
};

}  // namespace sinter::cuda
