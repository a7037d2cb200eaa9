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

int64_t shared_bytes(const AttentionCall& c) {
  const int d = int(width_of(c));
  return round_up(c.keys, device::kResidentKeys) * (device::resident_key_pitch(d) + device::resident_value_pitch(d)) *
         byte_size(c.type);
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
  if (shared_bytes(c) > device.shared_bytes)
    return fmt::format("{} keys take {} bytes of shared memory, and there are {}", c.keys, shared_bytes(c), device.shared_bytes);
  return {};
}

std::vector<ResidentForm> resident_forms(const AttentionCall& c) {
  std::vector<ResidentForm> forms;
  for (int row_tiles : {1, 2})
    for (int blocks : {1, 2, 3, 4})
      if (row_tiles == 1 || width_of(c) < 160) forms.push_back({row_tiles, blocks});
  return forms;
}

ResidentForm resident_form(const AttentionCall&) { return {1, 3}; }

std::string resident_kernel(const AttentionCall& c, const ResidentForm& form) {
  return fmt::format("resident_attention_{}_{}__{}", width_of(c), name(c.type), form.row_tiles);
}

void resident_attention(KernelTarget& target, const AttentionCall& c, const ResidentForm& form) {
  const int64_t tile = device::kResidentThreads / 32 * 16 * form.row_tiles;  // queries of a block at a time
  const int64_t slots = int64_t(target.multiprocessors()) * form.blocks_per_multiprocessor;
  const int64_t blocks = std::clamp<int64_t>(slots / (c.heads * c.b), 1, divide_up(c.queries, tile));
  const LaunchShape shape{.grid = {uint32_t(blocks), uint32_t(c.heads), uint32_t(c.b)},
                          .block = {uint32_t(device::kResidentThreads)},
                          .shared_bytes = uint32_t(shared_bytes(c))};
  target(resident_kernel(c, form), shape, device_arguments(c));
}

}  // namespace sinter::cuda
