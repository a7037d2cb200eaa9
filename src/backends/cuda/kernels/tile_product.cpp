#include "backends/cuda/kernels/tile_product.h"

#include <algorithm>
#include <array>
#include <limits>

#include "backends/cuda/kernels/tensor_map.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kRows = device::kTileRows, kDepth = device::kTileDepth;
/// Rows of tiles that are made before the next column of tiles: what blocks read at a time is about square.
constexpr int64_t kGroupPairs = 8;

/// As the kernels are named. Tiles of 192 and 256 columns, of which each warpgroup made half the rows, were slower at every size:
/// nothing multiplied while they were stored.
constexpr std::array<device::TileForm, 4> kForms = {{{160, false}, {128, false}, {160, true}, {128, true}}};

TileProductCall with_strides(TileProductCall c) {
  if (!c.a_stride) c.a_stride = c.k;
  if (!c.weights_stride) c.weights_stride = c.k;
  if (!c.out_stride) c.out_stride = c.n;
  if (!c.residual_stride) c.residual_stride = c.n;
  if (!c.gate_row) c.gate_row = c.n;
  return c;
}

/// Rows of k elements, of which boxes of `box_rows` by kTileDepth are copied.
TiledArray matrix(DType type, DevicePtr at, int64_t rows, int64_t k, int64_t stride, int64_t box_rows) {
  return {.at = at, .type = type, .sizes = {k, rows}, .strides = {stride}, .box = {kDepth, box_rows}};
}

}  // namespace

std::string why_no_tile_product(const TileProductCall& call, const DeviceInfo& device) {
  const TileProductCall c = with_strides(call);
  if (device.capability() != 90)
    return fmt::format("tile products are for capability 9.0, and {} has {}", device.name, device.capability());
  if (device.cuda_version < 12000) return "tile products need a driver for CUDA 12.0";
  if (c.type != DType::bf16 && c.type != DType::f16) return fmt::format("there are no tile products of {}", name(c.type));
  if (c.gated && (c.gelu || c.residual)) return "a gated tile product has no other GELU and no residual";
  if (c.n % 8) return fmt::format("tile products make columns by 8, not {}", c.n);
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 4;
  if (std::max({c.m, c.n, c.k, c.gate_row}) > kMost) return "too large for a tile product";
  bool aligned = (c.a | c.weights | c.out | c.residual) % 16 == 0 && c.bias % 4 == 0 && c.gate_row % 2 == 0;
  for (int64_t stride : {c.a_stride, c.weights_stride, c.out_stride, c.residual_stride}) aligned = aligned && stride % 8 == 0;
  if (!aligned) return "tile products need addresses and rows at multiples of 16 bytes";
  return {};
}

std::span<const device::TileForm> tile_forms() { return kForms; }

std::string tile_kernel(int number, DType type) {
  const device::TileForm& form = kForms.at(size_t(number));
  return fmt::format("tile_product_{}_{}__{}", form.columns, name(type), form.gated ? "gated" : "plain");
}

double tile_share(const TileProductCall& call, int form, int multiprocessors) {
  const int64_t columns = kForms[size_t(form)].out_columns(), at_once = multiprocessors / 2;
  const int64_t pairs = divide_up(call.m, 2 * kRows) * divide_up(call.n, columns);
  return double(call.m * call.n) / double(divide_up(pairs, at_once) * at_once * 2 * kRows * columns);
}

int best_tile_form(const TileProductCall& call, int multiprocessors) {
  // Narrower tiles read more of shared memory for each product.
  auto rate = [&](int form) {
    constexpr double kNarrow = 0.95;
    return tile_share(call, form, multiprocessors) * (kForms[size_t(form)].columns == 128 ? kNarrow : 1);
  };
  int best = -1;
  for (int i = 0; i < int(kForms.size()); ++i)
    if (kForms[size_t(i)].gated == call.gated && (best < 0 || rate(i) > rate(best))) best = i;
  return best;
}

device::TileProductArguments product_arguments(const TileProductCall& call) {
  const TileProductCall c = with_strides(call);
  return {.out = c.out,
          .bias = c.bias,
          .residual = c.residual,
          .out_stride = c.out_stride,
          .residual_stride = c.residual_stride,
          .m = int(c.m),
          .n = int(c.n),
          .k = int(c.k),
          .gate = int(c.gate_row),
          .gelu = c.gelu,
          .scale = c.scale,
          .early_weights = c.early_weights,
          .group = int(kGroupPairs)};
}

TileProduct tile_product_without_maps(const TileProductCall& call, int number, int multiprocessors) {
  const TileProductCall c = with_strides(call);
  const device::TileForm& form = kForms.at(size_t(number));
  SINTER_ASSERT(form.gated == c.gated);
  const int64_t pairs = divide_up(c.m, 2 * kRows) * divide_up(c.n, form.out_columns());
  TileProduct made;
  made.kernel = tile_kernel(number, c.type);
  made.shape = {.grid = {uint32_t(2 * std::min<int64_t>(pairs, multiprocessors / 2))},
                .block = {uint32_t(device::kTileThreads)},
                .shared_bytes = uint32_t(form.shared_bytes())};
  made.maps = {};
  made.arguments = product_arguments(call);
  return made;
}

TileProduct tile_product(const TileProductCall& call, int number, int multiprocessors) {
  TileProduct made = tile_product_without_maps(call, number, multiprocessors);
  const TileProductCall c = with_strides(call);
  describe(made.maps.a, matrix(c.type, c.a, c.m, c.k, c.a_stride, kRows));
  describe(made.maps.weights, matrix(c.type, c.weights, c.gated ? c.gate_row + c.n : c.n, c.k, c.weights_stride,
                                     kForms[size_t(number)].columns / 2));
  return made;
}

}  // namespace sinter::cuda
