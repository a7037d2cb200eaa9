#include "graph/ops/product.h"

#include <algorithm>
#include <vector>

#include "graph/ops/support.h"

namespace sinter {
namespace {

constexpr int64_t kTileRows = 4, kTileColumns = 8, kBlockRows = 64, kBlockColumns = 128, kBlockDepth = 256;
using Vector = double __attribute__((vector_size(64), aligned(8)));

/// out[kTileRows][stride] += left[depth][kTileRows] . right[depth][kTileColumns].
[[gnu::always_inline]] inline void tile_body(const double* left, const double* right, int64_t depth, double* out,
                                             int64_t stride) {
  Vector sums[kTileRows] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const Vector& b = *reinterpret_cast<const Vector*>(right + k * kTileColumns);
    for (int64_t i = 0; i < kTileRows; ++i) sums[i] += left[k * kTileRows + i] * b;
  }
  for (int64_t i = 0; i < kTileRows; ++i) *reinterpret_cast<Vector*>(out + i * stride) += sums[i];
}
[[gnu::always_inline]] inline void add_scaled_body(double* out, const double* x, double factor, int64_t count) {
  int64_t i = 0;
  for (; i + kTileColumns <= count; i += kTileColumns)
    *reinterpret_cast<Vector*>(out + i) += factor * *reinterpret_cast<const Vector*>(x + i);
  for (; i < count; ++i) out[i] += factor * x[i];
}

// The same sums in the same order, in wider registers where the machine has them.
#if defined(__x86_64__)
[[gnu::target("avx2")]] void tile_avx2(const double* left, const double* right, int64_t depth, double* out, int64_t stride) {
  tile_body(left, right, depth, out, stride);
}
[[gnu::target("avx2")]] void add_scaled_avx2(double* out, const double* x, double factor, int64_t count) {
  add_scaled_body(out, x, factor, count);
}
bool has_avx2() { return __builtin_cpu_supports("avx2"); }
#endif

void tile(const double* left, const double* right, int64_t depth, double* out, int64_t stride) {
#if defined(__x86_64__)
  static const bool wide = has_avx2();
  if (wide) return tile_avx2(left, right, depth, out, stride);
#endif
  tile_body(left, right, depth, out, stride);
}

/// Lines [begin, begin + lines) interleaved in groups of `group`: packed[line / group][k][line % group]; missing lines are zero.
void pack(const ProductFill& fill, int64_t begin, int64_t lines, int64_t group, int64_t from, int64_t depth, double* packed) {
  double line[kBlockDepth];
  for (int64_t i = 0; i < (lines + group - 1) / group * group; ++i) {
    double* to = packed + i / group * group * depth + i % group;
    if (i < lines)
      fill(begin + i, from, depth, line);
    else
      std::fill_n(line, depth, 0.0);
    for (int64_t k = 0; k < depth; ++k) to[k * group] = line[k];
  }
}

struct Block {
  std::vector<double> left = std::vector<double>(kBlockRows * kBlockDepth);
  std::vector<double> right = std::vector<double>(kBlockColumns * kBlockDepth);
  std::vector<double> sums = std::vector<double>(kBlockRows * kBlockColumns);
};

}  // namespace

void product(int64_t rows, int64_t columns, int64_t depth, const ProductFill& left, const ProductFill& right,
             const ProductStore& store) {
  int64_t row_blocks = (rows + kBlockRows - 1) / kBlockRows, column_blocks = (columns + kBlockColumns - 1) / kBlockColumns;
  in_parallel(row_blocks * column_blocks, 1, [&](int64_t begin, int64_t end) {
    Block block;
    for (int64_t task = begin; task < end; ++task) {
      int64_t row = task / column_blocks * kBlockRows, column = task % column_blocks * kBlockColumns;
      int64_t block_rows = std::min(kBlockRows, rows - row), block_columns = std::min(kBlockColumns, columns - column);
      std::fill(block.sums.begin(), block.sums.end(), 0.0);
      for (int64_t from = 0; from < depth; from += kBlockDepth) {
        int64_t length = std::min(kBlockDepth, depth - from);
        pack(left, row, block_rows, kTileRows, from, length, block.left.data());
        pack(right, column, block_columns, kTileColumns, from, length, block.right.data());
        for (int64_t j = 0; j < block_columns; j += kTileColumns)
          for (int64_t i = 0; i < block_rows; i += kTileRows)
            tile(block.left.data() + i * length, block.right.data() + j * length, length,
                 block.sums.data() + i * kBlockColumns + j, kBlockColumns);
      }
      for (int64_t i = 0; i < block_rows; ++i) store(row + i, column, block_columns, block.sums.data() + i * kBlockColumns);
    }
  });
}

void add_scaled(double* out, const double* x, double factor, int64_t count) {
#if defined(__x86_64__)
  static const bool wide = has_avx2();
  if (wide) return add_scaled_avx2(out, x, factor, count);
#endif
  add_scaled_body(out, x, factor, count);
}

}  // namespace sinter
