#pragma once
#include "backends/cuda/kernels/kernels.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// Group normalisation as one multiply-add for each element, as in the CPU's calls/group_stats.h:
///   group_norm(x + addend)[n, p, c] = x[n, p, c] * out[n, 0, c] + out[n, 1, c]
/// The addend is folded in: who applies `out` does not add it again. x is read once. Sums are f32 over a few elements around one
/// of them, and are joined with their means, so a large mean costs no digits.
struct GroupStatsCall {
  int64_t n = 1, pixels = 0, channels = 0, groups = 1;  ///< groups divides channels
  DevicePtr x = 0;                                      ///< [n, pixels, channels]
  DType type = DType::bf16;                             ///< f32, f16 or bf16
  int64_t pixel_stride = 0;                             ///< elements; 0: channels. Pictures follow at pixels * pixel_stride
  DevicePtr gamma = 0, beta = 0;                        ///< f32 for each channel; 0: 1 and 0
  DevicePtr addend = 0;                                 ///< [n, channels], rows `addend_stride` apart; 0: none
  int64_t addend_stride = 0;
  DType addend_type = DType::f32;  ///< f32, f16 or bf16
  double epsilon = 1e-5;
  DevicePtr out = 0;        ///< f32 [n, 2, channels]
  DevicePtr workspace = 0;  ///< group_stats_workspace_bytes(), 16-byte aligned
  DevicePtr counters = 0;   ///< kGroupStatsCounters u32, zero before and after; for calls that follow each other, the same
};
inline constexpr int64_t kGroupStatsCounters = 4096;

/// Depends on the device through its multiprocessors.
int64_t group_stats_workspace_bytes(const GroupStatsCall& call, int multiprocessors);
/// One launch. Code::Unsupported for a group that is wider than a block can hold (640 threads of 16 bytes, or 1024 of less).
void group_stats(KernelTarget& target, const GroupStatsCall& call);

}  // namespace sinter::cuda
