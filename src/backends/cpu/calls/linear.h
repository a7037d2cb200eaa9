#pragma once
#include "backends/cpu/calls/panels.h"
#include "backends/cpu/calls/tile_kernel.h"
#include "base/thread_pool.h"

namespace sinter {

/// out[m, n] = epilogue(sum over k of prologue(A)[m, k] * W[n, k]).
struct LinearShape {
  int64_t m = 0, n = 0, k = 0;
  int parts = 1;                       ///< W has parts * n rows; column j of every part meets in one epilogue (GEGLU: 2)
  PanelType weights = PanelType::f32;  ///< bf16_dot rounds A to bf16
  DType a = DType::f32;                ///< of A in memory, or what the prologue writes: f32, bf16; f16 without prologue only
  int64_t a_stride = 0;                ///< elements from one row of A to the next; unused with a prologue
  bool prologue = false;
  bool epilogue = false;
};

struct LinearCall {
  LinearShape shape;
  const void* a = nullptr;               ///< without prologue
  const void* weights = nullptr;         ///< `parts` packed matrices, one after the other: see pack.h
  const TileKernel* prologue = nullptr;  ///< writes its one tile: rows m, columns k
  const TileKernel* epilogue = nullptr;  ///< reads `parts` f32 tiles: rows m, columns n; writes its outputs itself
  float* out = nullptr;                  ///< without epilogue (parts must be 1 then): rows `out_stride` floats apart
  int64_t out_stride = 0;
  void* workspace = nullptr;  ///< linear_workspace_bytes(), 64-byte aligned
};

int64_t linear_workspace_bytes(const LinearShape& shape, int threads, const Microkernels& kernels);
void linear(const LinearCall& call, const Microkernels& kernels, ThreadPool& pool);
inline double linear_flops(const LinearShape& s) { return 2.0 * double(s.m) * double(s.n) * double(s.k) * s.parts; }

}  // namespace sinter
