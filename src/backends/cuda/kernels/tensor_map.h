#pragma once
#include <vector>

#include "backends/cuda/driver.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// An array of 16-bit elements as the copying unit of devices of capability 9.0 sees it, and the boxes of it that are copied at a
/// time, with swizzled chunks of 16 bytes: the innermost axis first, which is dense and of which 64 elements are copied. The
/// address and all strides are multiples of 16 bytes.
struct TiledArray {
  DevicePtr at = 0;
  DType type = DType::bf16;
  std::vector<int64_t> sizes, strides;  ///< strides: in elements, of all axes but the first
  std::vector<int64_t> box;             ///< in elements of the array, so many of which are copied as steps leave
  std::vector<int64_t> steps = {};      ///< every so manyth element is copied; none: all
};
/// Asks the driver for the description that kernels give to the copying unit.
void describe(uint64_t (&map)[16], const TiledArray& array);

}  // namespace sinter::cuda
