#pragma once
#include "models/low_rank.h"

namespace sinter {

/// Whether LoRAs are merged here with one rounding for a product and its addition to a sum, as on devices. Builds for sanitizers
/// and processors without such an instruction round twice.
inline bool host_fuses_sums() {
  const float b[] = {-(1 + 0x1p-11f), 1 + 0x1p-12f}, a[] = {1, 1 + 0x1p-12f};
  float sum = 0;
  RightFactor(b, 2, 1).add_product(&sum, a, 1, 1);
  return sum != 0;
}

}  // namespace sinter
