#pragma once
// Convolutions of 16-bit pictures on devices of capability 9.0, as products (implicit GEMM): a row of the left matrix is a pixel
// of the result, row after row and picture after picture, and its columns are the channels of the pixels in its window. That
// matrix is nowhere: the copying unit brings 128 of its rows, for one tap and 64 channels at a time, from the picture (im2col).
// All else is tile_product.device.h's.
//
// Pixels come once for each tap, nine times as much as tile windows bring from the second cache; but no tile has rows that are
// no pixel, but for the last, however wide the pictures are.
#include "backends/cuda/kernels/tile_product.device.h"
#include "backends/cuda/kernels/tile_taps_arguments.h"

namespace sinter::device {

struct TapOperands {
  static constexpr bool kAreTaps = true;
  static constexpr int kBringing = 40, kMultiplying = 232;

  const TileProductArguments& args;
  const TapsArguments& taps;

  /// A tap and the first of the channels that are multiplied.
  struct Step {
    const TapsArguments& taps;
    int number = 0, channel = 0, tap = 0, x = 0, y = 0;

    SINTER_DEVICE_INLINE operator int() const { return number; }
    SINTER_DEVICE_INLINE Step& operator++() {
      ++number;
      channel += kTileDepth;
      if (channel < taps.channels) return *this;
      channel = 0;
      ++tap;
      if (++x == taps.kernel_w) x = 0, ++y;
      return *this;
    }
  };
  SINTER_DEVICE_INLINE Step first_step() const { return {taps}; }

  /// A tile's first pixel, where its window begins. What lies wholly behind the last one begins there as well: the copying unit
  /// says what it brings from behind the last picture, but not that it may begin there.
  struct Place {
    int x, y, picture;
  };
  SINTER_DEVICE_INLINE Place place(int row) const {
    const int pixel = least(row, args.m - 1), line = pixel / taps.width;
    return {pixel % taps.width * taps.stride - taps.left, line % taps.height * taps.stride - taps.top, line / taps.height};
  }

  SINTER_DEVICE_INLINE void copy_left(uint32_t to, uint64_t map, const Step& step, const Place& from, uint32_t barrier) const {
    copy_pixels(to, map, step.channel, from.x, from.y, from.picture, step.x, step.y, barrier);
  }
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& step, int row, uint32_t barrier) const {
    copy_box_to_pair(to, map, step.channel, step.tap, row, barrier);
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
    sinter::device::TileProduct<columns, false, bf16, Operands>(arguments, Operands{arguments, taps}).run(at);    \
  }
