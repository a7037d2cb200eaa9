#pragma once
#include "base/thread_pool.h"
#include "tensor/dtype.h"

namespace sinter {

/// Group normalisation as one multiply-add for each element: group_norm(x)[n, p, c] = x[n, p, c] * out[n, 0, c] + out[n, 1, c].
/// Reads x once. Sums are shifted by a first element and joined as Chan et al. 1983 in double, so a large mean costs no digits.
struct GroupStatsCall {
  int64_t n = 1, pixels = 0, channels = 0, groups = 1;  ///< groups divides channels
  const void* x = nullptr;
  DType type = DType::f32;   ///< f32, bf16 or f16
  int64_t pixel_stride = 0;  ///< elements from one pixel to the next; pictures follow at pixels * pixel_stride
  const float *gamma = nullptr, *beta = nullptr;  ///< per channel; null: 1 and 0
  double epsilon = 1e-5;
  float* out = nullptr;       ///< [n, 2, channels]
  void* workspace = nullptr;  ///< group_stats_workspace_bytes(), 64-byte aligned
};

int64_t group_stats_workspace_bytes(int64_t n, int64_t pixels, int64_t channels, int64_t groups, int threads);
void group_stats(const GroupStatsCall& call, int vector_floats, ThreadPool& pool);

}  // namespace sinter
