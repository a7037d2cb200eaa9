#pragma once
#include <cstdint>

namespace sinter {

/// One block of online softmax over scores in base 2 (that is, already multiplied with log2 e), all dense. scores[key][query]:
/// for each query raises the running maximum (unless it is less than 8 too small), replaces the scores with exp2(score -
/// maximum), adds their sum to `sum`, and multiplies the query's column of `out` by what the old maximum was too large.
struct SoftmaxBlock {
  float* scores;  ///< [keys][queries]
  int64_t keys;
  int queries;           ///< one or two vectors
  float *maximum, *sum;  ///< [queries]; -infinity and 0 at first
  float* out;            ///< [out_rows][queries]
  int64_t out_rows;
};

/// For `count` rows of floats, `stride` apart: sum[c] += x - shift[c], squares[c] += (x - shift[c])^2.
struct ColumnSums {
  const float* x;
  int64_t stride, count, columns;
  const float* shift;
  float *sum, *squares;
};

/// The vector code of drivers, once for each instruction set. exp2 is within 2 units in the last place from 2^-126 on; what is
/// smaller is 0 or denormal, and 2^-infinity is 0.
struct VectorKernels {
  void (*softmax)(const SoftmaxBlock& block);
  /// Only with vectors of 16 floats. The maximum is that of scale * score (scale > 0), and `scores` becomes a bf16 panel:
  /// [key / 2][query][key % 2], with 0 for a last key that does not exist. Cut off after eight bits, not rounded: that makes
  /// them smaller by the same share on average, and the sum must therefore be made of what the panel holds. `sum` is not used.
  void (*softmax_pairs)(const SoftmaxBlock& block, float scale);
  void (*column_sums)(const ColumnSums& sums);
  /// to[j * to_stride + i] = from[i * from_stride + j] for rows x columns of `from`.
  void (*transpose)(const float* from, int64_t from_stride, float* to, int64_t to_stride, int64_t rows, int64_t columns);
  void (*transpose_halves)(const uint16_t* from, int64_t from_stride, uint16_t* to, int64_t to_stride, int64_t rows,
                           int64_t columns);
  void (*scale)(const float* x, float factor, float* y, int64_t count);  ///< y may be x
  void (*exp2)(const float* x, float* y, int64_t count);                 ///< count is a multiple of the vector length
};
const VectorKernels& vector_kernels(int vector_floats);

}  // namespace sinter
