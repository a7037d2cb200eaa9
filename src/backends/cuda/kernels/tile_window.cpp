#include "backends/cuda/kernels/tile_window.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kRows = device::kTileRows, kDepth = device::kTileDepth;

int64_t boxes(const TileWindowCall& c, const TileBox& box) {
  return divide_up(c.n, box.n) * divide_up(c.out_h(), box.h) * divide_up(c.out_w(), box.w);
}

int logarithm(int64_t power_of_two) {
  int log = 0;
  while (int64_t(1) << log < power_of_two) ++log;
  return log;
}

}  // namespace

TileBox tile_box(int64_t n, int64_t h, int64_t w) {
  TileBox best;
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (int64_t box_w = kRows; box_w > 0; box_w /= 2)
    for (int64_t box_h = kRows / box_w; box_h > 0; box_h /= 2) {
      const TileBox box{box_w, box_h, kRows / (box_w * box_h)};
      const int64_t count = divide_up(w, box.w) * divide_up(h, box.h) * divide_up(n, box.n);
      if (count < fewest) best = box, fewest = count;
    }
  return best;
}

std::string why_no_tile_window(const TileWindowCall& c, const DeviceInfo& device) {
  constexpr int64_t kMostSteps = 8, kMostElements = 256;  // of the copying unit's boxes
  if (c.c % 8) return fmt::format("tile windows take channels by 8, not {}", c.c);
  const TileBox box = tile_box(c.n, c.out_h(), c.out_w());
  if (c.stride > kMostSteps || std::max(box.w, box.h) * c.stride > kMostElements)
    return fmt::format("there are no tile windows {} pixels apart", c.stride);
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 4;
  if (std::max(c.n * c.out_h() * c.out_w(), c.n * c.h * c.w) > kMost) return "too large for a tile window";
  return why_no_tile_product(product_of(c), device);
}

TileProductCall product_of(const TileWindowCall& c) {
  TileProductCall product{.m = boxes(c, tile_box(c.n, c.out_h(), c.out_w())) * kRows, .n = c.out_c, .type = c.type};
  product.k = c.kernel_h * c.kernel_w * round_up(c.c, kDepth);
  product.a = c.in, product.weights = c.filters, product.out = c.out, product.bias = c.bias, product.residual = c.residual;
  return product;
}

double tile_share(const TileWindowCall& c, int form, int multiprocessors) {
  const TileProductCall product = product_of(c);
  const double used =
      double(c.n * c.out_h() * c.out_w()) / double(product.m) * (double(c.kernel_h * c.kernel_w * c.c) / double(product.k));
  return used * tile_share(product, form, multiprocessors);
}

int best_tile_form(const TileWindowCall& c, int multiprocessors) { return best_tile_form(product_of(c), multiprocessors); }

std::string tile_window_module(int form, DType type) {
  return fmt::format("tile_window_{}_{}", tile_forms()[size_t(form)].columns, name(type));
}

TileWindow tile_window_without_maps(const TileWindowCall& c, int form, int multiprocessors) {
  const TileBox box = tile_box(c.n, c.out_h(), c.out_w());
  TileWindow made;
  made.product = tile_product_without_maps(product_of(c), form, multiprocessors);
  made.product.kernel = tile_window_module(form, c.type) + "__plain";
  made.window = {.channels = int(c.c),
                 .kernel_w = int(c.kernel_w),
                 .stride = int(c.stride),
                 .left = int(c.left),
                 .top = int(c.top),
                 .width = int(c.out_w()),
                 .height = int(c.out_h()),
                 .pictures = int(c.n),
                 .box_x = logarithm(box.w),
                 .box_y = logarithm(box.h),
                 .boxes_x = int(divide_up(c.out_w(), box.w)),
                 .boxes_y = int(divide_up(c.out_h(), box.h))};
  made.pixels = {.at = c.in,
                 .type = c.type,
                 .sizes = {c.c, c.w, c.h, c.n},
                 .strides = {c.c, c.w * c.c, c.h * c.w * c.c},
                 .box = {kDepth, box.w * c.stride, box.h * c.stride, box.n},
                 .steps = {1, c.stride, c.stride, 1}};
  const int64_t taps = c.kernel_h * c.kernel_w;
  made.filters = {.at = c.filters,
                  .type = c.type,
                  .sizes = {c.c, taps, c.out_c},
                  .strides = {c.c, taps * c.c},
                  .box = {kDepth, 1, tile_forms()[size_t(form)].columns / 2},
                  .steps = {1, 1, 1}};
  return made;
}

TileWindow tile_window(const TileWindowCall& call, int form, int multiprocessors) {
  TileWindow made = tile_window_without_maps(call, form, multiprocessors);
  describe(made.product.maps.a, made.pixels);
  describe(made.product.maps.weights, made.filters);
  return made;
}

}  // namespace sinter::cuda
