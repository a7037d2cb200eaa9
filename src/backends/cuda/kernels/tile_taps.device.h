#pragma once
// Convolutions of 16-bit pictures on devices of capability 9.0, as products of consecutive pixels of the result
// (window_taps.device.h). All else is tile_product.device.h's.
//
// Pixels come once for each tap, nine times as much as tile windows bring from the second cache; but no tile has rows that are
// no pixel, but for the last, however wide the pictures are.
#include "backends/cuda/kernels/tile_product.device.h"
#include "backends/cuda/kernels/window_taps.device.h"

namespace sinter::device {

struct TapOperands {
  static constexpr bool kAreTaps = true;
  static constexpr int kBringing = 40, kMultiplying = 232;

  const WindowTaps taps;

  struct Step {
    const WindowTaps& taps;
    WindowTaps::Step at = {};
    int number = 0;

    SINTER_DEVICE_INLINE operator int() const { return number; }
    SINTER_DEVICE_INLINE Step& operator++() {
      ++number;
      taps.advance(at, 1);
      return *this;
    }
  };
  SINTER_DEVICE_INLINE Step first_step() const { return {taps}; }

  using Place = WindowTaps::Pixel;
  SINTER_DEVICE_INLINE Place place(int row) const { return taps.place(row); }

  SINTER_DEVICE_INLINE void copy_left(uint32_t to, uint64_t map, const Step& step, const Place& from, uint32_t barrier) const {
    copy_pixels(to, map, step.at.channel, from.x, from.y, from.picture, step.at.x, step.at.y, barrier);
  }
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& step, int row, uint32_t barrier) const {
    copy_box_to_pair(to, map, step.at.channel, step.at.tap, row, barrier);
  }
};

}  // namespace sinter::device

/// The kernel of one form and type, a module of its own as those of products.
#define SINTER_TILE_TAPS(columns, type, bf16)                                                                     \
  SINTER_DEVICE_PAIR_KERNEL(tile_taps_##columns##_##type##__plain, sinter::device::TileMaps maps,                 \
                            sinter::device::TileProductArguments arguments, sinter::device::TapsArguments taps) { \
    (void)maps;                                                                                                   \
    uint64_t at;                                                                                                  \
    SINTER_PARAMETER_ADDRESS(at, maps, tile_taps_##columns##_##type##__plain, 0);                                 \
    using Operands = sinter::device::TapOperands;                                                                 \
    sinter::device::TileProduct<columns, false, bf16, Operands>(arguments, Operands{{taps}}).run(at);             \
  }
