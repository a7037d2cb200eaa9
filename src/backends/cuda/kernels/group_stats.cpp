#include "backends/cuda/kernels/group_stats.h"

#include <algorithm>
#include <bit>
#include <numeric>

#include "backends/cuda/kernels/element_types.h"
#include "backends/cuda/kernels/group_stats_arguments.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kThreads = 320;                // divides into whole rows for 320, 640 and 1280 channels
constexpr int64_t kBlocksPerMultiprocessor = 3;  // what their registers allow at once
constexpr int64_t kLeastPixels = 8;              // of a thread where blocks share a group: two rounds of loads
constexpr int64_t kMomentsBytes = 8, kSectorBytes = 32;
constexpr int64_t kMostSharedBytes = 48 * 1024;
constexpr int64_t kLeastSlabBytes = 128;  // of a pixel, where blocks share a group: a line of the cache
/// What one block may read of a group by itself. Sharing a group between blocks costs 1.5 to 2 us for meeting at its end; a
/// multiprocessor reads some 25 KB from L2 in a microsecond.
constexpr int64_t kMostWholeBytes = 48 * 1024;

int element_type(DType type) {
  if (type == DType::f32) return device::kF32;
  if (type == DType::f16) return device::kF16;
  if (type == DType::bf16) return device::kBf16;
  fail(Code::Unsupported, "group_stats: no kernel for {}", name(type));
}

/// What the registers of a kernel that reads so many channels at a time allow.
int64_t most_threads(int64_t wide) { return wide > 2 ? 640 : 1024; }

struct Plan {
  int64_t wide = 0;                      // channels of a thread
  int64_t slab_groups = 0, vectors = 0;  // of a block
  int64_t lanes = 0;                     // pixels that a block reads side by side
  int64_t threads = 0, chunk = 0, chunks = 0;
  int64_t piece = 0, team = 0, tile_groups = 0, shared_bytes = 0;
};

int64_t pixel_stride(const GroupStatsCall& c) { return c.pixel_stride ? c.pixel_stride : c.channels; }
int64_t group_width(const GroupStatsCall& c) { return c.channels / c.groups; }
bool is_aligned(const GroupStatsCall& c, int64_t wide) {
  return c.x % DevicePtr(wide * byte_size(c.type)) == 0 && pixel_stride(c) % wide == 0;
}

/// One group for each block, and all its pixels; no threads where that would take too long.
Plan whole_plan(const GroupStatsCall& c) {
  Plan p;
  const int64_t row = group_width(c) * byte_size(c.type);
  const int64_t read = round_up(row, kSectorBytes) + (row % kSectorBytes ? kSectorBytes : 0);  // whole sectors, where they lie
  if (c.pixels * read > kMostWholeBytes) return p;
  for (p.wide = 16 / byte_size(c.type); group_width(c) % p.wide || !is_aligned(c, p.wide);) p.wide /= 2;
  p.vectors = group_width(c) / p.wide;
  if (p.vectors > most_threads(p.wide)) return p;
  p.slab_groups = 1;
  p.lanes = std::min(c.pixels, std::max<int64_t>(1, most_threads(p.wide) / p.vectors));
  p.threads = round_up(p.lanes * p.vectors, 32);
  p.chunk = c.pixels, p.chunks = 1;
  return p;
}

/// The narrowest slab of whole groups, whole vectors and whole lines of the cache that at most `threads` threads read, for the
/// last block of a slab joins the others' moments alone; 0 groups: impossible.
int64_t groups_of_slab(const GroupStatsCall& c, int64_t wide, int64_t threads) {
  int64_t widest = 0;
  for (int64_t groups = 1; groups <= c.groups; ++groups) {
    const int64_t channels = groups * group_width(c);
    if (c.groups % groups || channels % wide || channels / wide > threads) continue;
    widest = groups;
    if (channels * byte_size(c.type) >= kLeastSlabBytes) break;
  }
  return widest;
}

/// Slabs of all pixels, each of which some blocks share.
Plan shared_plan(const GroupStatsCall& c, int multiprocessors) {
  Plan p;
  for (int64_t wide = 16 / byte_size(c.type); wide > 0; wide /= 2)
    for (int64_t threads : {kThreads, most_threads(wide)}) {
      if (p.slab_groups || !is_aligned(c, wide)) continue;
      p.wide = wide;
      p.slab_groups = groups_of_slab(c, wide, threads);
    }
  if (!p.slab_groups) fail(Code::Unsupported, "group_stats: groups of {} channels are too wide for one block", group_width(c));
  p.vectors = p.slab_groups * group_width(c) / p.wide;
  p.lanes = std::max<int64_t>(1, kThreads / p.vectors);
  p.threads = round_up(p.lanes * p.vectors, 32);
  const int64_t slabs = c.groups / p.slab_groups;
  const bool countable = c.n * slabs <= kGroupStatsCounters;
  const int64_t blocks =
      countable ? std::max<int64_t>(1, multiprocessors * kBlocksPerMultiprocessor / std::max<int64_t>(1, c.n * slabs)) : 1;
  p.chunk = std::max(round_up(divide_up(c.pixels, blocks), p.lanes), kLeastPixels * p.lanes);
  p.chunk = std::min(p.chunk, std::max<int64_t>(c.pixels, 1));
  p.chunks = std::max<int64_t>(1, divide_up(c.pixels, p.chunk));
  return p;
}

Plan make_plan(const GroupStatsCall& c, int multiprocessors) {
  if (c.groups < 1 || c.channels % c.groups)
    fail(Code::InvalidArgument, "group_stats: {} channels in {} groups", c.channels, c.groups);
  element_type(c.type);  // or fails
  Plan p = whole_plan(c);
  if (!p.threads) p = shared_plan(c, multiprocessors);
  p.piece = std::gcd(p.wide, group_width(c));
  for (p.team = 32; p.team > 1 && p.team * p.slab_groups > p.threads;) p.team /= 2;
  const int64_t most_tiles = kMostSharedBytes / (p.chunks * kMomentsBytes);
  p.tile_groups = std::clamp<int64_t>(most_tiles, 1, p.slab_groups);
  p.shared_bytes = p.lanes * p.vectors * (p.wide / p.piece) * kMomentsBytes;
  if (p.chunks > 1) p.shared_bytes = std::max(p.shared_bytes, p.tile_groups * p.chunks * kMomentsBytes);
  return p;
}

}  // namespace

int64_t group_stats_workspace_bytes(const GroupStatsCall& call, int multiprocessors) {
  // The address decides how much a thread reads, and a plan made before there is one must hold for it too.
  int64_t chunks = 1;
  for (DevicePtr x = 1; x <= 16; x *= 2) {
    GroupStatsCall placed = call;
    placed.x = x;
    if (x % DevicePtr(byte_size(call.type)) == 0) chunks = std::max(chunks, make_plan(placed, multiprocessors).chunks);
  }
  return chunks == 1 ? 0 : call.n * call.groups * chunks * kMomentsBytes;
}

void group_stats(KernelTarget& target, const GroupStatsCall& c) {
  if (c.n == 0 || c.pixels == 0 || c.channels == 0) return;
  const Plan p = make_plan(c, target.multiprocessors());
  device::GroupStatsArguments a;
  a.x = c.x, a.gamma = c.gamma, a.beta = c.beta, a.out = c.out;
  a.addend = c.addend, a.addend_stride = c.addend_stride, a.addend_type = element_type(c.addend_type);
  a.partial = c.workspace, a.counters = c.counters;
  a.pixel_stride = pixel_stride(c), a.pixels = int(c.pixels);
  a.channels = int(c.channels), a.group_width = int(group_width(c));
  a.chunk = int(p.chunk), a.chunks = int(p.chunks);
  a.slab_groups = int(p.slab_groups), a.vectors = int(p.vectors), a.lanes = int(p.lanes);
  a.piece_log = std::countr_zero(uint64_t(p.piece)), a.team = int(p.team), a.tile_groups = int(p.tile_groups);
  a.epsilon = float(c.epsilon);
  LaunchShape shape{.grid = {uint32_t(p.chunks), uint32_t(c.groups / p.slab_groups), uint32_t(c.n)},
                    .block = {uint32_t(p.threads)},
                    .shared_bytes = uint32_t(p.shared_bytes)};
  target(fmt::format("group_stats__{}_x{}", name(c.type), p.wide), shape, a);
}

}  // namespace sinter::cuda
