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
constexpr unsigned kChannels = 64;

int map_type(DType type) { return type == DType::f16 ? kMapF16 : kMapBf16; }

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
  check(driver().encode_tiled_map(made, map_type(array.type), unsigned(axes), array.at, sizes, strides, box, steps,
                                  kNotInterleaved, kSwizzle128, kPromoteTo256, kZeroOutside),
        "describing an array of {}, strides {}, in tiles of {}", listed(array.sizes), listed(array.strides), listed(array.box));
  std::copy(std::begin(made), std::end(made), map);
}

void describe(uint64_t (&map)[16], const PixelColumns& p) {
  alignas(64) uint64_t made[16];
  const uint64_t sizes[] = {uint64_t(p.c), uint64_t(p.w), uint64_t(p.h), uint64_t(p.n)};
  const uint64_t strides[] = {uint64_t(p.c * kBytes), uint64_t(p.w * p.c * kBytes), uint64_t(p.h * p.w * p.c * kBytes)};
  // In the order of the axes, as CUTLASS gives them; the driver's manual lists them the other way round.
  const int first[] = {int(p.first.x), int(p.first.y)}, last[] = {int(p.last.x), int(p.last.y)};
  const unsigned steps[] = {1, unsigned(p.stride), unsigned(p.stride), 1};
  check(
      driver().encode_im2col_map(made, map_type(p.type), 4, p.at, sizes, strides, first, last, kChannels, unsigned(p.pixels),
                                 steps, kNotInterleaved, kSwizzle128, kPromoteTo256, kZeroOutside),
      "describing {} pictures of {} x {} x {} for windows that begin from ({}, {}) to ({}, {}) behind their last pixel, {} apart",
      p.n, p.h, p.w, p.c, p.first.x, p.first.y, p.last.x, p.last.y, p.stride);
  std::copy(std::begin(made), std::end(made), map);
}

}  // namespace sinter::cuda
