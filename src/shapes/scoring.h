#pragma once
#include <stdint.h>

#include "shapes/integers.h"
#include "shapes/shape.h"

// What a shape does to the error, from sums over the pixels that it covers. Compiled for GPUs as it stands.

namespace sinter::shapes {

constexpr int kChannels = 3;
constexpr int kSumLanes = 8;

/// What is summed over pixels, with d = target - canvas and c = canvas, each 0..255: d of the three channels, c of the three
/// channels, c d over the channels, c c over the channels. A row's sums before each pixel (and after the last) are kept in 32
/// bits that may wrap; the difference of two of them is exact, since no sum over a span of 2048 pixels reaches 2^31.
struct Sums {
  int64_t pixels = 0;
  int64_t lanes[kSumLanes] = {};

  constexpr int64_t d(int channel) const { return lanes[channel]; }
  constexpr int64_t c(int channel) const { return lanes[kChannels + channel]; }
  constexpr int64_t cd() const { return lanes[6]; }
  constexpr int64_t cc() const { return lanes[7]; }
};

/// The best alpha and colour for a shape, and the change of the squared error, in 1/255^2, before pixels are rounded.
struct Paint {
  int64_t change = 0;
  uint8_t alpha = 0;
  uint8_t color[kChannels] = {};
};

/// The opacity, in 1/255, that lowers the error most where every colour may be had. With residuals e = d + a c - a colour, the
/// best colour leaves the variance of d + a c, which is smallest at a = -cov(c, d) / var(c).
constexpr uint8_t best_alpha(const Sums& s, uint8_t low, uint8_t high) {
  if (low >= high) return low;
  int64_t covariance = s.pixels * s.cd(), variance = s.pixels * s.cc();
  for (int i = 0; i < kChannels; ++i) {
    covariance -= s.c(i) * s.d(i);
    variance -= s.c(i) * s.c(i);
  }
  variance /= 255;
  if (variance <= 0) return high;
  return uint8_t(bounded_quotient(-covariance, variance, low, high));
}

constexpr Paint best_paint(const Sums& s, uint8_t low_alpha, uint8_t high_alpha) {
  Paint paint;
  if (s.pixels == 0) return paint;
  paint.alpha = best_alpha(s, low_alpha, high_alpha);
  const int64_t a = paint.alpha;
  int64_t squares = 0, products = 0;
  for (int i = 0; i < kChannels; ++i) {
    // to the nearest, halves up
    const int64_t color = bounded_quotient(2 * (255 * s.d(i) + a * s.c(i)) + a * s.pixels, 2 * a * s.pixels, 0, 255);
    paint.color[i] = uint8_t(color);
    squares += color * (color * s.pixels - 2 * s.c(i));
    products += color * s.d(i);
  }
  // sum of (d - a (colour - c))^2 - d^2, times 255^2
  paint.change = a * a * (squares + s.cc()) - 2 * 255 * a * (products - s.cd());
  return paint;
}

/// A channel of a pixel after a shape: rounded to the nearest; no tie can occur, 255 is odd.
constexpr uint8_t blended(uint8_t canvas, uint8_t color, uint8_t alpha) {
  return uint8_t((uint32_t(canvas) * (255u - alpha) + uint32_t(color) * alpha + 127u) / 255u);
}

}  // namespace sinter::shapes
