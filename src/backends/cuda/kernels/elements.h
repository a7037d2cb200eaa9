#pragma once
#include "backends/cuda/kernels/kernels.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// Kernels that pass over memory once. Addresses need only the alignment of their elements; 16 bytes make them fast. Types are
/// f32, f16, bf16 and f8e4m3, to read also f8e5m2; others are Code::Unsupported. What f8e4m3 cannot hold becomes its largest
/// number, 448. Nothing to do is no launch.

struct CastCall {
  DevicePtr from = 0, to = 0;
  DType from_type = DType::f32, to_type = DType::f32;
  int64_t count = 0;
  float scale = 1;           ///< to = from * scale * row_scales[i / columns]
  DevicePtr row_scales = 0;  ///< f32; 0: none
  int64_t columns = 0;
};
void cast(KernelTarget& target, const CastCall& call);

/// to[i] = mean + factor * a normal number that `seed` and i decide. With factor 0 it fills with the mean.
void fill_normal(KernelTarget& target, DevicePtr to, DType type, int64_t count, uint64_t seed, float mean, float factor);

/// to[i, :] = table[indices[i], :]. Rows that the table does not have become NaN; callers who can see the indices refuse them.
struct GatherRowsCall {
  DevicePtr table = 0;  ///< [rows, columns]
  DType type = DType::bf16;
  int64_t rows = 0, columns = 0;
  DevicePtr indices = 0;  ///< i64 [count]
  int64_t count = 0;
  DevicePtr to = 0;
  int64_t to_stride = 0;  ///< elements; 0: columns
};
void gather_rows(KernelTarget& target, const GatherRowsCall& call);

/// to[r, c] = from[r, c] * gelu(from[r, columns + c]), GELU in its erf form.
struct GateRowsCall {
  DevicePtr from = 0;  ///< [rows, 2 * columns], dense
  DType type = DType::bf16;
  int64_t rows = 0, columns = 0;
  DevicePtr to = 0;
  int64_t to_stride = 0;  ///< elements; 0: columns
};
void gate_rows(KernelTarget& target, const GateRowsCall& call);

/// weight[r, :] += factor * (up . down)[r - begin, :] for each of some products in turn, all in f32, and rounded once at the end.
/// Sums are made in the order of the inner index, each step rounded once: the host's merge gives the same bits where its
/// processor fuses products and sums.
struct AddProductsCall {
  DevicePtr weight = 0;  ///< [rows, columns]
  DType type = DType::bf16;
  int64_t rows = 0, columns = 0;
  DevicePtr table = 0;  ///< device::RowProductArguments [products], aligned to 16 bytes as the factors behind it
  int products = 0;
};
void add_products(KernelTarget& target, const AddProductsCall& call);

/// Quantises each row by its largest element: scales[m] = max |x[m, :]| / 448 (1 for zeros) and to[m, :] = x[m, :] / scales[m].
/// Tokens of activations and output channels of weights [n, k] alike.
struct QuantiseRowsCall {
  DevicePtr x = 0;  ///< [rows, columns]
  DType type = DType::bf16;
  int64_t rows = 0, columns = 0;
  int64_t x_stride = 0;  ///< elements; 0: columns
  DevicePtr to = 0;      ///< f8e4m3
  int64_t to_stride = 0;
  DevicePtr scales = 0;  ///< f32 [rows]
};
void quantise_rows(KernelTarget& target, const QuantiseRowsCall& call);

/// to[n, y, x, :] = from[n, y / 2, x / 2, :]: a picture at twice its size, or with a last row or column less.
struct DoublePictureCall {
  DevicePtr from = 0, to = 0;
  DType type = DType::bf16;
  int64_t n = 1, h = 0, w = 0, c = 0;  ///< of `to`; `from` has half as many rows and columns, rounded up
};
void double_picture(KernelTarget& target, const DoublePictureCall& call);

/// Convolution weights from checkpoints, [k][c][taps] (taps = kernel height * width), as [k][taps][c].
struct FiltersCall {
  DevicePtr from = 0, to = 0;
  DType from_type = DType::f32, to_type = DType::f32;
  int64_t k = 0, c = 0, taps = 9;
};
void filters_channels_last(KernelTarget& target, const FiltersCall& call);
/// Windows of 3 x 3 (taps = 9) over a picture at twice its size, as [c][4][4][k]: what each pixel of the picture gives to 4 x 4
/// of the result, see WeightSlot::doubled_filters. The sums are of f32.
void filters_doubled(KernelTarget& target, const FiltersCall& call);
/// These back as windows of 3 x 3 in the form [k][3][3][c]: each middle weight from all sums that contain it. Corners are exact,
/// and in 16 bits all together 1.4 roundings off.
void filters_undoubled(KernelTarget& target, const FiltersCall& call);
/// These as four windows of 2 x 2 for the picture itself, for even and odd rows and columns of the result: [2][2][k][2][2][c].
void filters_of_places(KernelTarget& target, const FiltersCall& call);

}  // namespace sinter::cuda
