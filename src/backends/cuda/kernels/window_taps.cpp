#include "backends/cuda/kernels/window_taps.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kRows = device::kTileRows, kDepth = device::kTileDepth;
constexpr int64_t kPlaces = 4;  // of a result of twice the size

/// What makes an even place of a result of twice the size, else the call itself. Windows of odd places begin a pixel further.
TileWindowCall of_place(TileWindowCall c) {
  if (!c.doubles) return c;
  c.doubles = false;
  c.kernel_h = c.kernel_w = 2, c.stride = 1;
  c.top = c.left = 1, c.bottom = c.right = 0;
  return c;
}

int64_t pixels_of(const TileWindowCall& c) { return c.n * c.out_h() * c.out_w(); }

}  // namespace

std::string why_no_taps(const TileWindowCall& call) {
  const TileWindowCall c = of_place(call);
  if (c.c % 8) return fmt::format("the copying unit takes channels by 8, not {}", c.c);
  constexpr int64_t kMostStride = 8, kMostSide = 64;  // kMostSide: corners of windows have eight bits
  if (c.stride > kMostStride) return fmt::format("windows {} pixels apart are too far for the copying unit", c.stride);
  if (std::max({c.kernel_h, c.kernel_w, c.top, c.bottom, c.left, c.right}) > kMostSide)
    return fmt::format("the window, {} x {}, or its padding is too large for the copying unit", c.kernel_h, c.kernel_w);
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 4;
  if (std::max({c.h, c.w, pixels_of(call), c.n * c.h * c.w}) > kMost) return "too large for the copying unit";
  return {};
}

TileProductCall taps_product(const TileWindowCall& c) {
  const TileWindowCall place = of_place(c);
  TileProductCall product{.m = pixels_of(place), .n = c.out_c, .type = c.type};
  if (c.doubles) product.m = kPlaces * round_up(product.m, kRows);
  product.k = place.kernel_h * place.kernel_w * round_up(c.c, kDepth) + round_up(c.shortcut.c, kDepth);
  product.a = c.in, product.weights = c.filters, product.out = c.out, product.bias = c.bias, product.residual = c.residual;
  product.early_weights = c.early_weights;
  return product;
}

int64_t taps_products(const TileWindowCall& c) {
  const TileWindowCall place = of_place(c);
  return place.kernel_h * place.kernel_w * c.c + c.shortcut.c;
}

double taps_used(const TileWindowCall& c) {
  const TileProductCall product = taps_product(c);
  return double(pixels_of(c)) / double(product.m) * double(taps_products(c)) / double(product.k);
}

PixelOperands taps_operands(const TileWindowCall& call, int64_t filters) {
  const TileWindowCall c = of_place(call);
  PixelOperands made;
  made.a = {.at = c.in,
            .type = c.type,
            .n = c.n,
            .h = c.h,
            .w = c.w,
            .c = c.c,
            .first = {-c.left, -c.top},
            .last = {c.right - (c.kernel_w - 1), c.bottom - (c.kernel_h - 1)},
            .stride = c.stride,
            .pixels = kRows};
  made.weights = window_filters(call, filters);
  return made;
}

device::TapsArguments taps_arguments(const TileWindowCall& call) {
  const TileWindowCall c = of_place(call);
  return {.kernel_w = int(c.kernel_w),
          .stride = int(c.stride),
          .left = int(c.left),
          .top = int(c.top),
          .width = int(c.out_w()),
          .height = int(c.out_h()),
          .pictures = int(c.n),
          .channels = int(round_up(c.c, kDepth))};
}

}  // namespace sinter::cuda
