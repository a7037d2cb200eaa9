#pragma once
#include "backends/cuda/kernels/device.h"

namespace sinter::device {

/// A place in a ring, and the parity of the phase in which it is used.
struct RingPlace {
  int at = 0;
  uint32_t parity = 0;

  static SINTER_DEVICE_INLINE RingPlace after(uint32_t uses, int count) {
    return {int(uses % uint32_t(count)), uses / uint32_t(count) & 1};
  }
  /// Without a branch: it may stand among products.
  SINTER_DEVICE_INLINE void advance(int count) {
    const bool ends = at + 1 == count;
    parity ^= ends ? 1 : 0;
    at = ends ? 0 : at + 1;
  }
};

}  // namespace sinter::device
