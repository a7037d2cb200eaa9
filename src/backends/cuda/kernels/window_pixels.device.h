#pragma once
// Which rows of a convolution's results pixels are, and which taps of the filters they meet where the result is of twice the
// size: the same for tile windows and split windows.
#include "backends/cuda/kernels/device.h"

namespace sinter::device {

template <class Window, class Pixel>
SINTER_DEVICE_INLINE bool is_inside(const Window& window, const Pixel& p) {
  return p.x < window.width && p.y < window.height && p.picture < window.pictures;
}
/// The row of a pixel's results; -1: the pixel is outside.
template <class Window, class Pixel>
SINTER_DEVICE_INLINE int row_of_pixel(const Window& window, const Pixel& p) {
  return is_inside(window, p) ? (p.picture * window.height + p.y) * window.width + p.x : -1;
}

/// The result is twice as large: four convolutions with windows of 2 x 2, whose results are even or odd pixels of even or odd
/// rows ("places"). Filters are [channel, 4 x 4, filter] as of a gradient: each place has other four of the 4 x 4. The padding in
/// front is 1, less where the place is odd.
struct DoubledPlace {
  static constexpr int kCount = 4;
  int odd_x, odd_y;

  SINTER_DEVICE_INLINE static DoubledPlace of(int number) { return {number & 1, number >> 1}; }
  SINTER_DEVICE_INLINE int left() const { return 1 - odd_x; }
  SINTER_DEVICE_INLINE int top() const { return 1 - odd_y; }
  /// The tap of the filters that the place's tap (x, y) is.
  SINTER_DEVICE_INLINE int tap(int x, int y) const { return (3 - 2 * y - odd_y) * 4 + 3 - 2 * x - odd_x; }
  /// The row of the results of the place's pixel; -1: it is outside.
  template <class Window, class Pixel>
  SINTER_DEVICE_INLINE int row_of_pixel(const Window& window, const Pixel& p) const {
    return is_inside(window, p) ? ((p.picture * window.height + p.y) * 2 + odd_y) * 2 * window.width + 2 * p.x + odd_x : -1;
  }
};

}  // namespace sinter::device
