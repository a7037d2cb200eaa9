#pragma once
#include <array>

#include "backends/cuda/kernels/group_stats.h"

namespace sinter::cuda {

/// out = group_norm(x + addend), or its SiLU, in one launch that reads x once: blocks keep their part of the map in registers and
/// shared memory, and those that have parts of one group are a cluster and send each other their sums. Arithmetic is f32, sums
/// are taken around an element of the group.
struct GroupNormCall {
  GroupStatsCall of;  ///< but for `out`, workspace and counters, which are not used
  bool silu = false;
  DevicePtr out = 0;       ///< [n, pixels, channels] of the type of x; overlaps nothing else that is read
  int64_t out_stride = 0;  ///< elements from pixel to pixel; 0: channels. Pictures follow at pixels * out_stride
};

/// What a device offers to one launch.
struct GroupNormLimits {
  static constexpr int kMostCluster = 8;  ///< that every device with clusters can place

  int64_t shared_bytes = 0;  ///< of a block
  /// [c]: how many clusters of c + 1 blocks are on the device at once where no two blocks share a multiprocessor; 0: none.
  std::array<int, kMostCluster> clusters = {};

  /// Begins the kernel that of() asks about.
  static void begin(Kernels& kernels);
  static GroupNormLimits of(Kernels& kernels);
};

/// Whether the call can be one launch: 16-bit elements at multiples of 16 bytes, and a map that fits. Where not, group_stats and
/// a multiply-add.
bool group_norm_fits(const GroupNormCall& call, const GroupNormLimits& limits);
/// Fails with Code::Unsupported where it does not fit.
void group_norm(KernelTarget& target, const GroupNormCall& call, const GroupNormLimits& limits);

}  // namespace sinter::cuda
