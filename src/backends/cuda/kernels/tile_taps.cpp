#include "backends/cuda/kernels/tile_taps.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kDepth = device::kTileDepth;

int64_t pixels_of(const TileWindowCall& c) { return c.n * c.out_h() * c.out_w(); }

/// The product that it is: what tile products ask of sizes, addresses and the device holds here too.
TileProductCall product_of(const TileWindowCall& c) {
  TileProductCall product{.m = pixels_of(c), .n = c.out_c, .k = c.kernel_h * c.kernel_w * round_up(c.c, kDepth), .type = c.type};
  product.a = c.in, product.weights = c.filters, product.out = c.out, product.bias = c.bias, product.residual = c.residual;
  product.early_weights = c.early_weights;
  return product;
}

}  // namespace

std::string why_no_tile_taps(const TileWindowCall& c, const DeviceInfo& device) {
  if (c.doubles || c.shortcut.c) return "tile taps make no results of twice the size, and no shortcuts";
  if (c.c % 8) return fmt::format("tile taps take channels by 8, not {}", c.c);
  constexpr int64_t kMostStride = 8, kMostSide = 64;  // kMostSide: corners of windows have eight bits
  if (c.stride > kMostStride) return fmt::format("windows {} pixels apart are too far for the copying unit", c.stride);
  if (std::max({c.kernel_h, c.kernel_w, c.top, c.bottom, c.left, c.right}) > kMostSide)
    return fmt::format("the window, {} x {}, or its padding is too large for the copying unit", c.kernel_h, c.kernel_w);
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 4;
  if (std::max({c.h, c.w, pixels_of(c), c.n * c.h * c.w}) > kMost) return "too large for tile taps";
  return why_no_tile_product(product_of(c), device);
}

std::vector<int> tile_taps_forms() {
  std::vector<int> forms;
  for (int form = 0; form < int(tile_forms().size()); ++form)
    if (!tile_forms()[size_t(form)].gated) forms.push_back(form);
  return forms;
}

double tile_taps_share(const TileWindowCall& c, int form, int multiprocessors) {
  return tile_share(product_of(c), form, multiprocessors) * double(c.c) / double(round_up(c.c, kDepth));
}

std::string tile_taps_module(int form, DType type) {
  return fmt::format("tile_taps_{}_{}", tile_forms()[size_t(form)].columns, name(type));
}

TileTaps tile_taps_without_maps(const TileWindowCall& c, int form, int multiprocessors) {
  const int64_t taps = c.kernel_h * c.kernel_w;
  TileTaps made{.product = tile_product_without_maps(product_of(c), form, multiprocessors)};
  made.product.kernel = tile_taps_module(form, c.type) + "__plain";
  made.pixels = {.at = c.in,
                 .type = c.type,
                 .n = c.n,
                 .h = c.h,
                 .w = c.w,
                 .c = c.c,
                 .first = {-c.left, -c.top},
                 .last = {c.right - (c.kernel_w - 1), c.bottom - (c.kernel_h - 1)},
                 .stride = c.stride,
                 .pixels = device::kTileRows};
  // Not as the product's weights, whose rows are of one piece: steps may reach beyond a tap's channels.
  made.filters = {.at = c.filters,
                  .type = c.type,
                  .sizes = {c.c, taps, c.out_c},
                  .strides = {c.c, taps * c.c},
                  .box = {kDepth, 1, tile_forms()[size_t(form)].columns / 2}};
  made.taps = {.kernel_w = int(c.kernel_w),
               .stride = int(c.stride),
               .left = int(c.left),
               .top = int(c.top),
               .width = int(c.out_w()),
               .height = int(c.out_h()),
               .channels = int(round_up(c.c, kDepth))};
  return made;
}

TileTaps tile_taps(const TileWindowCall& call, int form, int multiprocessors) {
  TileTaps made = tile_taps_without_maps(call, form, multiprocessors);
  describe(made.product.maps.a, made.pixels);
  describe(made.product.maps.weights, made.filters);
  return made;
}

}  // namespace sinter::cuda
