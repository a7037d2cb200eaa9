#pragma once
#include <cstdint>

namespace sinter {

/// One block of online softmax over scores in base 2 (that is, already multiplied with log2 e). For each of `rows` rows: takes
/// `valid(row)` scores, raises the running maximum, replaces the scores with exp2(score - maximum) and those from valid to
/// `columns` with 0, adds their sum to `sum`, and multiplies the row of `out` by what the old maximum was too large.
struct SoftmaxBlock {
  float* scores;
  int64_t score_stride;  ///< floats; rows have room for columns rounded up to 16
  int64_t rows, columns;
  int64_t first_valid, valid_step;  ///< row r has clamp(first_valid + r * valid_step, 0, columns) valid scores (causal: step 1)
  float *maximum, *sum;             ///< per row; -infinity and 0 at first
  float* out;
  int64_t out_stride, out_columns;  ///< out_columns is a multiple of the vector length
};

/// For `count` rows of floats, `stride` apart: sum[c] += x - shift[c], squares[c] += (x - shift[c])^2.
struct ColumnSums {
  const float* x;
  int64_t stride, count, columns;
  const float* shift;
  float *sum, *squares;
};

/// The vector code of drivers, once for each instruction set. exp2 is within 2 units in the last place above 2^-126, and 0 below.
struct VectorKernels {
  void (*softmax)(const SoftmaxBlock& block);
  void (*column_sums)(const ColumnSums& sums);
  void (*scale)(const float* x, float factor, float* y, int64_t count);  ///< y may be x
  void (*exp2)(const float* x, float* y, int64_t count);                 ///< count is a multiple of the vector length
};
const VectorKernels& vector_kernels(int vector_floats);

}  // namespace sinter
