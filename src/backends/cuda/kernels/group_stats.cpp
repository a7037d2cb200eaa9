#include "backends/cuda/kernels/group_stats.h"

#include <algorithm>

#include "base/error.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kThreads = 320;  // divides into whole rows for 320, 640 and 1280 channels
constexpr int64_t kMostThreads = 1024;
constexpr int64_t kBlocksPerMultiprocessor = 3;  // what their registers allow at once
constexpr int64_t kMomentsBytes = 8;
constexpr int64_t kMostSharedBytes = 48 * 1024;

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Plan {
  int64_t wide;                  // channels of a thread
  int64_t slab_groups, vectors;  // of a block
  int64_t lanes;                 // pixels that a block reads side by side
  int64_t threads, chunk, chunks;
};

int64_t pixel_stride(const GroupStatsCall& c) { return c.pixel_stride ? c.pixel_stride : c.channels; }

/// As few slabs as blocks of at most `threads` threads allow, each of whole groups and whole vectors; 0 groups: impossible.
int64_t groups_of_slab(const GroupStatsCall& c, int64_t wide, int64_t threads) {
  const int64_t width = c.channels / c.groups;
  for (int64_t groups = c.groups; groups > 0; --groups)
    if (c.groups % groups == 0 && groups * width % wide == 0 && groups * width / wide <= threads) return groups;
  return 0;
}

Plan make_plan(const GroupStatsCall& c, int multiprocessors) {
  if (c.groups < 1 || c.channels % c.groups)
    fail(Code::InvalidArgument, "group_stats: {} channels in {} groups", c.channels, c.groups);
  const int64_t bytes = byte_size(c.type), most_wide = 16 / bytes;
  const bool aligned = c.x % 16 == 0 && pixel_stride(c) % most_wide == 0;
  Plan p{};
  for (int64_t wide : {most_wide, int64_t(1)})
    for (int64_t threads : {kThreads, kMostThreads}) {
      if (p.slab_groups || (wide > 1 && !aligned)) continue;
      p.wide = wide;
      p.slab_groups = groups_of_slab(c, wide, threads);
    }
  const int64_t width = c.channels / c.groups;
  if (!p.slab_groups) fail(Code::Unsupported, "group_stats: groups of {} channels are too wide for one block", width);
  p.vectors = p.slab_groups * width / p.wide;
  p.lanes = std::max<int64_t>(1, kThreads / p.vectors);
  p.lanes = std::min(p.lanes, kMostSharedBytes / (p.vectors * p.wide * kMomentsBytes));
  p.lanes = std::max<int64_t>(p.lanes, 1);
  p.threads = divide_up(p.lanes * p.vectors, 32) * 32;
  const int64_t slabs = c.groups / p.slab_groups;
  const int64_t blocks = std::max<int64_t>(1, multiprocessors * kBlocksPerMultiprocessor / (c.n * slabs));
  p.chunk = std::max<int64_t>(divide_up(divide_up(c.pixels, blocks), p.lanes) * p.lanes, 1);
  p.chunk = std::min(p.chunk, std::max<int64_t>(c.pixels, 1));
  p.chunks = divide_up(c.pixels, p.chunk);
  return p;
}

std::string_view partial_kernel(DType type, int64_t wide) {
  switch (type) {
    case DType::f32:
      return wide > 1 ? "group_stats__partial_f32_x4" : "group_stats__partial_f32_x1";
    case DType::f16:
      return wide > 1 ? "group_stats__partial_f16_x8" : "group_stats__partial_f16_x1";
    case DType::bf16:
      return wide > 1 ? "group_stats__partial_bf16_x8" : "group_stats__partial_bf16_x1";
    default:
      fail(Code::Unsupported, "group_stats: no kernel for {}", name(type));
  }
}

}  // namespace

int64_t group_stats_workspace_bytes(const GroupStatsCall& call, int multiprocessors) {
  // Unaligned addresses make the plan finer, and a plan made before there is an address must hold for it too.
  GroupStatsCall unaligned = call, aligned = call;
  unaligned.x = 1;
  aligned.x = 0;
  int64_t chunks = std::max(make_plan(unaligned, multiprocessors).chunks, make_plan(aligned, multiprocessors).chunks);
  return call.n * call.groups * chunks * kMomentsBytes;
}

void group_stats(KernelTarget& target, const GroupStatsCall& c) {
  if (c.n == 0 || c.pixels == 0 || c.channels == 0) return;
  const Plan p = make_plan(c, target.multiprocessors());
  const int64_t width = c.channels / c.groups, slabs = c.groups / p.slab_groups;
  LaunchShape shape{.grid = {uint32_t(p.chunks), uint32_t(slabs), uint32_t(c.n)}, .block = {uint32_t(p.threads)}};
  shape.shared_bytes = uint32_t(p.lanes * p.vectors * p.wide * kMomentsBytes);
  target(partial_kernel(c.type, p.wide), shape, c.x, c.workspace, int(c.pixels), int(p.chunk), pixel_stride(c), int(c.groups),
         int(width), int(p.slab_groups), int(p.vectors), int(p.lanes), c.addend, c.addend_stride);
  target("group_stats__finish", {{uint32_t(c.groups), uint32_t(c.n)}, {32}}, c.workspace, c.out, int(c.pixels), int(p.chunk),
         int(p.chunks), int(c.channels), int(width), c.gamma, c.beta, c.addend, c.addend_stride, c.epsilon);
}

}  // namespace sinter::cuda
