#pragma once
#include "backends/cuda/kernels/kernels.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// Products and convolutions for machines without cuBLASLt or cuDNN: 16-bit types on tensor cores with f32 sums, f32 without.
/// Any sizes and strides work; dense columns whose rows begin at multiples of 16 bytes are fast.

/// What happens to the sums: out = f(scale * sum + bias) + residual. Rows are those of the product, or the output pixels.
struct ProductEpilogue {
  DevicePtr out = 0;
  DType out_type = DType::bf16;  ///< f32, f16 or bf16
  int64_t out_stride = 0;        ///< elements from row to row; 0: dense
  DevicePtr bias = 0;            ///< for each column; 0: none
  DType bias_type = DType::f32;
  bool gelu = false;       ///< f: the tanh form
  DevicePtr residual = 0;  ///< may be `out`; 0: none
  DType residual_type = DType::bf16;
  int64_t residual_stride = 0;
  float scale = 1;
};

/// out[b, m, n] = epilogue(sum over k of a[b, m, k] * w[b, n, k])
struct MatmulCall {
  int64_t batch = 1, m = 0, n = 0, k = 0;
  DType type = DType::bf16;  ///< of a and w: f32, f16 or bf16
  DevicePtr a = 0, w = 0;
  int64_t a_stride = 0, w_stride = 0;                ///< elements from row to row (m, n); 0: dense
  int64_t a_column_stride = 1, w_column_stride = 1;  ///< from k to k + 1
  int64_t a_batch_stride = 0, w_batch_stride = 0, out_batch_stride = 0, residual_batch_stride = 0;
  ProductEpilogue epilogue;
};
void matmul(KernelTarget& target, const MatmulCall& call);

/// out[n, y, x, o] = epilogue(sum over i, j, c of in[n, y * stride + i - pad_top, x * stride + j - pad_left, c] * w[o, i, j, c])
struct ConvCall {
  int64_t n = 1, h = 0, w = 0, c = 0, out_c = 0;
  int kernel_h = 3, kernel_w = 3, stride = 1;
  int pad_top = 1, pad_left = 1, pad_bottom = 1, pad_right = 1;
  DType type = DType::bf16;  ///< of input and filters
  DevicePtr in = 0;          ///< [n, h, w, c]
  int64_t pixel_stride = 0;  ///< elements; 0: c
  DevicePtr filters = 0;     ///< [out_c, kernel_h, kernel_w, c]
  int64_t out_step = 1;      ///< the result's pixels are every so many of a picture that is so many times as high and wide
  ProductEpilogue epilogue;

  int64_t out_h() const { return (h + pad_top + pad_bottom - kernel_h) / stride + 1; }
  int64_t out_w() const { return (w + pad_left + pad_right - kernel_w) / stride + 1; }
};
void conv(KernelTarget& target, const ConvCall& call);

}  // namespace sinter::cuda
