#pragma once
#include <cstring>

#include "backends/cuda/kernels/hopper_emulation.h"
#include "backends/cuda/kernels/tensor_map.h"

namespace sinter::cuda {

/// What emulated copies read in place of the driver's description, those of two axes as of tiles, else of boxes. `early`: they
/// may before wait_for_operands().
inline void describe_for_emulation(uint64_t (&map)[16], const TiledArray& array, bool early = false) {
  if (array.sizes.size() == 2) {
    const device::EmulatedMap tile{array.at, array.sizes[1], array.sizes[0], array.strides[0], array.box[1], early};
    std::memcpy(map, &tile, sizeof tile);
    return;
  }
  device::EmulatedBoxMap box{array.at, {1, 1, 1, 1}, {1, 0, 0, 0}, {1, 1, 1, 1}, {1, 1, 1, 1}, early};
  for (size_t i = 0; i < array.sizes.size(); ++i) {
    box.sizes[i] = array.sizes[i], box.box[i] = int32_t(array.box[i]);
    if (!array.steps.empty()) box.steps[i] = int32_t(array.steps[i]);
    if (i > 0) box.strides[i] = array.strides[i - 1];
  }
  std::memcpy(map, &box, sizeof box);
}
inline void describe_for_emulation(uint64_t (&map)[16], const PixelColumns& p) {
  const device::EmulatedPixelMap pixels{.base = p.at,
                                        .sizes = {p.c, p.w, p.h, p.n},
                                        .first = {p.first.x, p.first.y},
                                        .end = {p.w + p.last.x, p.h + p.last.y},
                                        .stride = int32_t(p.stride),
                                        .pixels = int32_t(p.pixels)};
  std::memcpy(map, &pixels, sizeof pixels);
}

}  // namespace sinter::cuda
