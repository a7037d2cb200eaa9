#include "backends/cuda/kernels/tensor_map.h"

#include <algorithm>

#include "backends/cuda/driver_api.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

// The driver's numbers.
constexpr int kMapF16 = 6, kMapBf16 = 9;
constexpr int kNotInterleaved = 0, kSwizzle128 = 3, kPromoteTo256 = 3, kZeroOutside = 0;
constexpr size_t kMostDimensions = 5;
constexpr int64_t kBytes = 2;  // of an element

}  // namespace

void describe_tensor(uint64_t (&map)[16], DType type, DevicePtr at, std::initializer_list<MapDimension> dimensions,
                     std::initializer_list<int64_t> box) {
  SINTER_ASSERT(dimensions.size() == box.size() && box.size() <= kMostDimensions);
  uint64_t sizes[kMostDimensions], strides[kMostDimensions];
  uint32_t boxes[kMostDimensions], steps[kMostDimensions];
  std::string text;
  for (size_t i = 0; i < box.size(); ++i) {
    const MapDimension& d = dimensions.begin()[i];
    sizes[i] = uint64_t(d.size);
    if (i > 0) strides[i - 1] = uint64_t(d.stride * kBytes);
    boxes[i] = uint32_t(box.begin()[i]), steps[i] = 1;
    text += fmt::format("{}{} at {}", i ? " x " : "", d.size, d.stride);
  }
  alignas(64) uint64_t made[16];
  check(driver().encode_tiled_map(made, type == DType::f16 ? kMapF16 : kMapBf16, unsigned(box.size()), at, sizes, strides, boxes,
                                  steps, kNotInterleaved, kSwizzle128, kPromoteTo256, kZeroOutside),
        "describing a tensor of {}", text);
  std::copy(std::begin(made), std::end(made), map);
}

}  // namespace sinter::cuda
