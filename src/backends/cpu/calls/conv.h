#pragma once
#include "backends/cpu/calls/panels.h"
#include "backends/cpu/calls/tile_kernel.h"
#include "base/thread_pool.h"

namespace sinter {

/// out[n, y, x, o] = epilogue(sum over window and c of padded prologue(in)[n, y * stride + i, x * stride + j, c] * W[o, c, i,
/// j]). Pictures are [n, h, w, c]; what is padded is zero after the prologue.
struct ConvShape {
  int64_t n = 1, h = 0, w = 0, c = 0, out_c = 0;
  int kernel_h = 3, kernel_w = 3, stride = 1;
  int pad_top = 1, pad_left = 1, pad_bottom = 1, pad_right = 1;
  PanelType weights = PanelType::f32;  ///< bf16_dot rounds the input to bf16; it needs an even number of channels
  DType in = DType::f32;     ///< of the input in memory, or what the prologue writes: f32, bf16; f16 without prologue only
  int64_t pixel_stride = 0;  ///< elements from one input pixel to the next; unused with a prologue
  bool prologue = false;
  bool epilogue = false;

  int64_t out_h() const { return (h + pad_top + pad_bottom - kernel_h) / stride + 1; }
  int64_t out_w() const { return (w + pad_left + pad_right - kernel_w) / stride + 1; }
};

struct ConvCall {
  ConvShape shape;
  const void* in = nullptr;              ///< without prologue
  const void* weights = nullptr;         ///< packed in conv_layout()
  const TileKernel* prologue = nullptr;  ///< writes its one tile: rows are pixels (n, h, w) flattened, columns channels
  const TileKernel* epilogue = nullptr;  ///< reads its one f32 tile: rows (n, out_h, out_w) flattened, columns output channels
  float* out = nullptr;                  ///< without epilogue: pixels `out_stride` floats apart
  int64_t out_stride = 0;
  void* workspace = nullptr;  ///< conv_workspace_bytes(), 64-byte aligned
};

int64_t conv_workspace_bytes(const ConvShape& shape, int threads, const Microkernels& kernels);
/// Code::Unsupported for bf16_dot with an odd number of channels.
void conv(const ConvCall& call, const Microkernels& kernels, ThreadPool& pool);
inline double conv_flops(const ConvShape& s) {
  return 2.0 * double(s.n * s.out_h() * s.out_w()) * double(s.out_c) * double(s.c) * s.kernel_h * s.kernel_w;
}

}  // namespace sinter
