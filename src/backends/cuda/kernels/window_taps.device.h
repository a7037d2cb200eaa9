#pragma once
// Convolutions as products (implicit GEMM) on devices of capability 9.0: a row of the left matrix is a pixel of the result, row
// after row and picture after picture, and its columns are the channels of the pixels in its window. That matrix is nowhere: the
// copying unit brings 128 of its rows, for one tap and 64 channels at a time, from the picture (im2col).
#include "backends/cuda/kernels/hopper_intrinsics.h"
#include "backends/cuda/kernels/window_taps_arguments.h"

namespace sinter::device {

struct WindowTaps {
  const TapsArguments& window;

  /// A tap and the first of the channels that are multiplied.
  struct Step {
    int channel, x, y, tap;
  };
  SINTER_DEVICE_INLINE Step step(int number) const {
    const int tap = number * kTileDepth / window.channels;
    return {number * kTileDepth % window.channels, tap % window.kernel_w, tap / window.kernel_w, tap};
  }
  /// Without divisions: those of a step took longer than its products.
  SINTER_DEVICE_INLINE void advance(Step& s, int steps) const {
    s.channel += steps * kTileDepth;
    while (s.channel >= window.channels) {
      s.channel -= window.channels;
      ++s.tap;
      if (++s.x == window.kernel_w) s.x = 0, ++s.y;
    }
  }

  struct Pixel {
    int x, y, picture;
  };
  SINTER_DEVICE_INLINE Pixel pixel(int number) const {
    const int line = number / window.width;
    return {number % window.width, line % window.height, line / window.height};
  }
  /// Where the window of a tile's first pixel begins. What lies wholly behind the last pixel begins there as well: the copying
  /// unit says what it brings from behind the last picture, but not that it may begin there.
  SINTER_DEVICE_INLINE Pixel place(int row) const {
    const Pixel first = pixel(least(row, window.pictures * window.height * window.width - 1));
    return {first.x * window.stride - window.left, first.y * window.stride - window.top, first.picture};
  }
};

}  // namespace sinter::device
