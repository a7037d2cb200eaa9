#include "backends/cuda/kernels/resident_attention.h"

#include <algorithm>
#include <array>

#include "backends/cuda/kernels/resident_attention_arguments.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

/// Heads that there are kernels for, and how many blocks the registers and the shared memory of a multiprocessor of
/// capability 9.0 hold at once with up to kResidentKeys keys and with twice as many.
struct Width {
  int64_t d, blocks, blocks_of_many;
};
constexpr std::array<Width, 4> kWidths = {{{48, 6, 4}, {64, 5, 3}, {80, 4, 2}, {160, 2, 1}}};
constexpr int64_t kMostGridYz = 65535;
constexpr int64_t kWarps = device::kResidentThreads / 32, kQueries = kWarps * 16;  // of a block, at a time

/// Null where heads are wider than all.
const Width* width_of(const AttentionCall& c) {
  auto width = std::find_if(kWidths.begin(), kWidths.end(), [&](const Width& w) { return w.d >= c.d; });
  return width == kWidths.end() ? nullptr : &*width;
}

bool needs_many_tiles(const AttentionCall& c) { return c.keys > device::kResidentKeys; }

/// Keys, values, and two places for queries of each warp.
int64_t shared_bytes(const AttentionCall& c) {
  const int64_t rows = 2 * round_up(c.keys, device::kResidentKeys) + 2 * kQueries;
  return rows * device::resident_pitch(int(width_of(c)->d)) * byte_size(c.type);
}

}  // namespace

std::string why_no_resident_attention(const AttentionCall& c, const DeviceInfo& device) {
  if (c.type != DType::bf16 && c.type != DType::f16)
    return fmt::format("our kernel for few keys has no form for {}", name(c.type));
  if (c.causal || c.bias) return "our kernel for few keys has neither mask nor bias";
  if (c.d < 1 || !width_of(c)) return fmt::format("heads of {} are wider than {}", c.d, kWidths.back().d);
  if (!lies_in_chunks(c)) return "heads are no whole pieces of 16 bytes";
  if (c.keys < 1 || c.queries < 1 || c.heads < 1 || c.b < 1) return "attention over nothing";
  if (c.heads > kMostGridYz || c.b > kMostGridYz) return fmt::format("{} heads of {} batch entries are too many", c.heads, c.b);
  if (device.capability() < 80) return "it needs compute capability 8.0";
  if (const int64_t bytes = shared_bytes(c); bytes > device.shared_bytes)
    return fmt::format("{} keys take {} bytes of shared memory, and there are {}", c.keys, bytes, device.shared_bytes);
  return {};
}

std::string resident_module(const AttentionCall& c) {
  return fmt::format("resident_attention_{}_{}", width_of(c)->d, name(c.type));
}

std::string resident_kernel(const AttentionCall& c) {
  return fmt::format("{}__{}", resident_module(c), needs_many_tiles(c) ? "many_tiles" : "one_tile");
}

/// Measured on an H200: two blocks or more of a multiprocessor take as long as all their queries do, one block 1.5 times that. So
/// what counts is how many a multiprocessor gets at most, and that each block loads all keys, which is a fifth of a tile's time.
int64_t resident_blocks(const AttentionCall& c, int multiprocessors) {
  const int64_t tiles = divide_up(c.queries, kQueries);
  const int64_t most = needs_many_tiles(c) ? width_of(c)->blocks_of_many : width_of(c)->blocks;
  int64_t best = 1;
  double least = 0;
  for (int64_t blocks = 1; blocks <= tiles; ++blocks) {
    const int64_t at_once = divide_up(blocks * c.heads * c.b, multiprocessors), rounds = divide_up(tiles, blocks);
    if (blocks > 1 && at_once > most) break;
    const double time = double(at_once) * (double(rounds) * (at_once == 1 ? 1.5 : 1.0) + 0.2);
    if (blocks == 1 || time < least) best = blocks, least = time;
  }
  return best;
}

void resident_attention(KernelTarget& target, const AttentionCall& c) {
  const auto blocks = uint32_t(resident_blocks(c, target.multiprocessors()));
  const LaunchShape shape{.grid = {blocks, uint32_t(c.heads), uint32_t(c.b)},
                          .block = {uint32_t(device::kResidentThreads)},
                          .shared_bytes = uint32_t(shared_bytes(c))};
  target(resident_kernel(c), shape, device_arguments(c));
}

}  // namespace sinter::cuda
