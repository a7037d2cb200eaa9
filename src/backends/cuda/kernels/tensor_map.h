#pragma once
#include <initializer_list>

#include "backends/cuda/driver.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// A dimension of 16-bit elements; strides in elements.
struct MapDimension {
  int64_t size, stride;
};

/// The driver's description of a tensor for devices of capability 9.0, which copy boxes of it with swizzled chunks of 16 bytes.
/// The first dimension lies dense, and its box has 64 elements at most; all other strides, and the address, are multiples of 16
/// bytes.
void describe_tensor(uint64_t (&map)[16], DType type, DevicePtr at, std::initializer_list<MapDimension> dimensions,
                     std::initializer_list<int64_t> box);

}  // namespace sinter::cuda
