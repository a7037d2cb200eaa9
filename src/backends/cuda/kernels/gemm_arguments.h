#pragma once
#include <stdint.h>

namespace sinter::device {

/// What the kernels of gemm.device.cpp take, the same bytes for host and device. Addresses are the device's; strides count
/// elements. Types are ElementTypes.

/// Element (row, column) lies at row * row_stride + column * column_stride.
struct MatrixArguments {
  uint64_t base = 0;
  int64_t row_stride = 0, column_stride = 1;
  int64_t batch_stride = 0;
};

/// Pictures [n, h, w, c], pixels `pixel_stride` apart, as the matrix of their windows: a row for each output pixel (n, y, x), a
/// column for each (window y, window x, c).
struct WindowArguments {
  uint64_t base = 0;
  int64_t pixel_stride = 0;
  int h = 0, w = 0, c = 0;
  int out_h = 0, out_w = 0;
  int kernel_w = 0, stride = 1, pad_top = 0, pad_left = 0;
};

/// out[row, column] = f(scale * sum + bias[column]) + residual[row, column], f being gelu (tanh form) or nothing.
struct EpilogueArguments {
  uint64_t out = 0, bias = 0, residual = 0;  ///< 0: none
  int64_t out_stride = 0, residual_stride = 0;
  int64_t out_batch_stride = 0, residual_batch_stride = 0;
  int64_t line_rows = 0, line_stride = 0;  ///< of the result: so many rows lie `line_stride` after those before; 0: no lines
  int out_type = 0, bias_type = 0, residual_type = 0;
  int gelu = 0;
  float scale = 1;
};

struct ProductSize {
  int m = 0, n = 0, k = 0;
};

}  // namespace sinter::device
