#include "backends/cuda/kernels/thin_conv.h"

#include <algorithm>
#include <array>
#include <limits>
#include <span>

#include "backends/cuda/kernels/thin_conv_arguments.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kMostGridYz = 65535, kMostSize = 1 << 15;
constexpr int64_t kWarp = 32, kMostWarps = 8, kVector = 8;  // elements that are read or written together
constexpr int64_t kSharedBytesOfAll = 99 * 1024;            // of a block, on every device since 8.0 but for its reserve

int64_t window(const ConvCall& c) { return int64_t(c.kernel_h) * c.kernel_w; }

bool few_inputs(const ConvCall& c) { return c.c % kVector != 0; }

/// What the kernel is made for: so many numbers in a window, or columns of filters' pixels. 0: there is none.
int width_of(const ConvCall& c) {
  if ((c.c % kVector == 0) == (c.out_c % kVector == 0)) return 0;
  static constexpr std::array<int, 2> kInputs = {48, 96}, kOutputs = {32, 40};
  for (int width : few_inputs(c) ? kInputs : kOutputs)
    if (window(c) * (few_inputs(c) ? c.c : c.out_c) <= width) return width;
  return 0;
}

std::string kernel_of(const ConvCall& c) {
  return fmt::format("thin_conv_{}__few_{}_{}{}", name(c.type), few_inputs(c) ? "inputs" : "outputs", width_of(c),
                     few_inputs(c) && c.c % 2 ? "_odd" : "");
}

std::string why_no_form(const ConvCall& c, const DeviceInfo& device) {
  if (c.type != DType::bf16 && c.type != DType::f16)
    return fmt::format("there are no convolutions of {} with few channels", name(c.type));
  if (device.capability() < 80) return "convolutions with few channels need compute capability 8.0";
  if (c.c < 1 || c.out_c < 1 || !width_of(c))
    return fmt::format("{} to {} channels with windows of {} x {} are too many, or too regular", c.c, c.out_c, c.kernel_h,
                       c.kernel_w);
  const ProductEpilogue& e = c.epilogue;
  if (c.stride != 1 || c.pixel_stride || c.out_step != 1 || e.out_stride) return "its pixels do not follow each other";
  if (e.gelu || e.residual || e.scale != 1 || e.out_type != c.type || (e.bias && e.bias_type != c.type))
    return "more than a bias follows, or another type";
  return {};
}

device::ThinConvArguments arguments_of(const ConvCall& c, ThinTile tile) {
  device::ThinConvArguments a{.in = c.in, .filters = c.filters, .bias = c.epilogue.bias, .out = c.epilogue.out};
  a.h = int(c.h), a.w = int(c.w), a.c = int(c.c), a.out_c = int(c.out_c), a.out_h = int(c.out_h()), a.out_w = int(c.out_w());
  a.kernel_h = c.kernel_h, a.kernel_w = c.kernel_w, a.pad_top = c.pad_top, a.pad_left = c.pad_left;
  a.tile_h = tile.h, a.tile_w = tile.w;
  return a;
}

/// Of a block of few inputs, which makes as many filters; about equally many in each.
int64_t few_inputs_threads(const ConvCall& c) {
  const int64_t blocks = divide_up(c.out_c, device::kFewInputsMostColumns);
  return round_up(divide_up(c.out_c, blocks), device::kFewInputsColumns);
}

int64_t blocks_of(const ConvCall& c, ThinTile t) {
  const int64_t tiles = c.n * divide_up(c.out_h(), t.h) * divide_up(c.out_w(), t.w);
  return few_inputs(c) ? tiles * divide_up(c.out_c, few_inputs_threads(c)) : tiles;
}

int64_t shared_bytes(const ConvCall& c, ThinTile tile) {
  const device::ThinConvArguments a = arguments_of(c, tile);
  if (few_inputs(c)) return round_up(int64_t(a.patch_pixels()) * a.c * 2, 16);
  return device::FewOutputsShared(a, width_of(c) / 8).bytes;
}

constexpr int kWide = device::kFewInputsWide;
constexpr std::array<ThinTile, 3> kInputTiles = {{{32, kWide}, {16, kWide}, {8, kWide}}};
constexpr std::array<ThinTile, 6> kOutputTiles = {{{16, 32}, {16, 16}, {8, 16}, {8, 8}, {4, 8}, {1, 8}}};

/// The largest tile of which every multiprocessor gets two: larger ones read filters and borders less often. But of those whose
/// shared memory suffices, none of less than 64 pixels.
ThinTile tile_of(const ConvCall& c, int multiprocessors) {
  constexpr double kNearlyTwo = 1.8;
  const std::span<const ThinTile> tiles = few_inputs(c) ? std::span<const ThinTile>(kInputTiles) : kOutputTiles;
  for (ThinTile tile : tiles) {
    const bool enough = tile.h * tile.w <= 64 || double(blocks_of(c, tile)) >= kNearlyTwo * multiprocessors;
    if (enough && shared_bytes(c, tile) <= kSharedBytesOfAll) return tile;
  }
  return tiles.back();
}

}  // namespace

std::string thin_conv_module(const ConvCall& c, const DeviceInfo& device) {
  return why_no_form(c, device).empty() ? fmt::format("thin_conv_{}", name(c.type)) : "";
}

std::string why_no_thin_conv(const ConvCall& c, const DeviceInfo& device) {
  if (std::string why = why_no_form(c, device); !why.empty()) return why;
  if (c.n < 1 || c.out_h() < 1 || c.out_w() < 1) return "a convolution of nothing";
  if (c.n > kMostGridYz || std::max({c.h, c.w, c.c, c.out_c, c.out_h(), c.out_w()}) > kMostSize)
    return "too large for a convolution with few channels";
  if ((c.in | c.filters | c.epilogue.out | c.epilogue.bias) % 16) return "addresses are no multiples of 16 bytes";
  const ThinTile least = tile_of(c, std::numeric_limits<int>::max());
  if (const int64_t bytes = shared_bytes(c, least); bytes > std::min(kSharedBytesOfAll, device.shared_bytes))
    return fmt::format("the filters of {} channels take {} bytes of shared memory", c.c, bytes);
  return {};
}

void thin_conv(KernelTarget& target, const ConvCall& c, ThinTile tile) {
  if (!tile.h) tile = tile_of(c, target.multiprocessors());
  const device::ThinConvArguments a = arguments_of(c, tile);
  auto tiles = [](int64_t size, int tile) { return uint32_t(divide_up(size, tile)); };
  LaunchShape shape{.grid = {tiles(a.out_w, tile.w), tiles(a.out_h, tile.h), uint32_t(c.n)}};
  shape.shared_bytes = uint32_t(shared_bytes(c, tile));
  if (few_inputs(c)) {
    const auto threads = uint32_t(few_inputs_threads(c));
    shape.block = {threads};
    shape.grid.x *= uint32_t(divide_up(c.out_c, threads));
  } else {
    const int64_t products = divide_up(a.patch_pixels(), 16), rounds = divide_up(products, kMostWarps);
    shape.block = {uint32_t(divide_up(products, rounds) * kWarp)};
  }
  target(kernel_of(c), shape, a);
}

}  // namespace sinter::cuda
