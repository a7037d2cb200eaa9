#include "backends/cuda/kernels/resident_attention.h"

#include <algorithm>
#include <array>

#include "backends/cuda/kernels/resident_attention_arguments.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr std::array<int64_t, 4> kWidths = {48, 64, 80, 160};  // that there are kernels for
constexpr int64_t kMostGridYz = 65535;

/// 0: none.
int64_t width_of(const AttentionCall& c) {
  auto width = std::find_if(kWidths.begin(), kWidths.end(), [&](int64_t w) { return w >= c.d; });
  return width == kWidths.end() ? 0 : *width;
}

constexpr int64_t kWarps = device::kResidentThreads / 32;
/// Keys, values, and two places for queries of each warp.
int64_t shared_bytes(const AttentionCall& c, int row_tiles) {
  const int64_t rows = 2 * round_up(c.keys, device::kResidentKeys) + kWarps * 2 * 16 * row_tiles;
  return rows * device::resident_pitch(int(width_of(c))) * byte_size(c.type);
}

}  // namespace

std::string why_no_resident_attention(const AttentionCall& c, const DeviceInfo& device) {
  if (c.type != DType::bf16 && c.type != DType::f16) return fmt::format("there is no kernel for {}", name(c.type));
  if (c.causal || c.bias) return "it has neither mask nor bias";
  if (c.d < 1 || !width_of(c)) return fmt::format("heads of {} are wider than {}", c.d, kWidths.back());
  if (!lies_in_chunks(c)) return "heads are no whole pieces of 16 bytes";
  if (c.keys < 1 || c.queries < 1 || c.heads < 1 || c.b < 1) return "attention over nothing";
  if (c.heads > kMostGridYz || c.b > kMostGridYz) return "too many heads";
  if (device.capability() < 80) return "it needs compute capability 8.0";
  if (const int64_t bytes = shared_bytes(c, resident_form(c).row_tiles); bytes > device.shared_bytes)
    return fmt::format("{} keys take {} bytes of shared memory, and there are {}", c.keys, bytes, device.shared_bytes);
  return {};
}

std::vector<ResidentForm> resident_forms(const AttentionCall& c) {
  std::vector<ResidentForm> forms;
  for (int row_tiles : {1, 2})
    for (int blocks : {2, 3, 4, 5, 6})
      if (row_tiles == 1 || (blocks < 4 && width_of(c) < 160 && c.keys <= device::kResidentKeys))
        forms.push_back({row_tiles, blocks});
  return forms;
}

ResidentForm resident_form(const AttentionCall& c) {
  // What the registers of each kernel allow.
  const bool many = c.keys > device::kResidentKeys;
  switch (width_of(c)) {
    case 48:
      return {1, many ? 4 : 6};
    case 64:
      return {1, many ? 3 : 5};
    case 80:
      return {1, many ? 3 : 4};
    default:
      return {1, many ? 2 : 3};
  }
}

std::string resident_kernel(const AttentionCall& c, const ResidentForm& form) {
  return fmt::format("resident_attention_{}_{}__{}_{}", width_of(c), name(c.type), form.row_tiles,
                     c.keys > device::kResidentKeys ? "many" : "one");
}

void resident_attention(KernelTarget& target, const AttentionCall& c, const ResidentForm& form) {
  const int64_t tiles = divide_up(c.queries, kWarps * 16 * form.row_tiles);  // of a head, for whole blocks
  const int64_t slots = std::max<int64_t>(1, target.multiprocessors() * form.blocks_per_multiprocessor / (c.heads * c.b));
  const int64_t rounds = divide_up(tiles, slots), blocks = divide_up(tiles, rounds);
  const LaunchShape shape{.grid = {uint32_t(blocks), uint32_t(c.heads), uint32_t(c.b)},
                          .block = {uint32_t(device::kResidentThreads)},
                          .shared_bytes = uint32_t(shared_bytes(c, form.row_tiles))};
  target(resident_kernel(c, form), shape, device_arguments(c));
}

}  // namespace sinter::cuda
