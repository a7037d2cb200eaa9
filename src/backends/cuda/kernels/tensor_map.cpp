#include "backends/cuda/kernels/tensor_map.h"

#include <algorithm>

#include "backends/cuda/driver_api.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

// The driver's numbers.
constexpr int kMapF16 = 6, kMapBf16 = 9;
constexpr int kNotInterleaved = 0, kSwizzle128 = 3, kPromoteTo256 = 3, kZeroOutside = 0;
constexpr int64_t kBytes = 2;  // of an element

std::string listed(const std::vector<int64_t>& numbers) {
  std::string text;
  for (int64_t number : numbers) text += fmt::format("{}{}", text.empty() ? "" : ", ", number);
  return text;
}

}  // namespace

void describe(uint64_t (&map)[16], const TiledArray& array) {
  constexpr size_t kMostAxes = 5;
  const size_t axes = array.sizes.size();
  SINTER_ASSERT(axes <= kMostAxes && array.strides.size() + 1 == axes && array.box.size() == axes);
  SINTER_ASSERT(array.steps.empty() || array.steps.size() == axes);
  alignas(64) uint64_t made[16];
  uint64_t sizes[kMostAxes], strides[kMostAxes];
  uint32_t box[kMostAxes], steps[kMostAxes];
  for (size_t i = 0; i < axes; ++i) {
    sizes[i] = uint64_t(array.sizes[i]), box[i] = uint32_t(array.box[i]);
    steps[i] = array.steps.empty() ? 1 : uint32_t(array.steps[i]);
    if (i > 0) strides[i - 1] = uint64_t(array.strides[i - 1] * kBytes);
  }
  check(driver().encode_tiled_map(made, array.type == DType::f16 ? kMapF16 : kMapBf16, unsigned(axes), array.at, sizes, strides,
                                  box, steps, kNotInterleaved, kSwizzle128, kPromoteTo256, kZeroOutside),
        "describing an array of {}, strides {}, in tiles of {}", listed(array.sizes), listed(array.strides), listed(array.box));
  std::copy(std::begin(made), std::end(made), map);
}

}  // namespace sinter::cuda
