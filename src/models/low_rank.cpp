#include "models/low_rank.h"

#include <algorithm>
#include <cstring>

namespace sinter {
namespace {

// Versions for newer processors, chosen when the library is loaded. Sanitizers run before that is possible.
#if defined(__x86_64__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define SINTER_NATIVE_CLONES __attribute__((target_clones("arch=haswell", "default")))
#else
#define SINTER_NATIVE_CLONES
#endif

constexpr int kLanes = 8, kVectors = 2, kTile = kLanes * kVectors;  // columns of one tile
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

struct Matrices {
  float* out;
  const float *a, *b;
  int64_t inner, columns;
  float factor;
};

/// 4 rows by 16 columns stay in registers for the whole sum: each value loaded from b serves four rows.
SINTER_NATIVE_CLONES void add_tile(const Matrices& m, int64_t row, int64_t column) {
  Lanes sums[4][kVectors] = {};
  for (int64_t k = 0; k < m.inner; ++k) {
    const float* right = m.b + k * m.columns + column;
    Lanes low, high;
    std::memcpy(&low, right, sizeof low);
    std::memcpy(&high, right + kLanes, sizeof high);
    for (int r = 0; r < 4; ++r) {
      float left = m.a[(row + r) * m.inner + k];
      sums[r][0] += left * low;
      sums[r][1] += left * high;
    }
  }
  for (int r = 0; r < 4; ++r)
    for (int i = 0; i < kVectors; ++i) {
      float* at = m.out + (row + r) * m.columns + column + i * kLanes;
      Lanes old;
      std::memcpy(&old, at, sizeof old);
      old += m.factor * sums[r][i];
      std::memcpy(at, &old, sizeof old);
    }
}

void add_edge(const Matrices& m, int64_t row, int64_t column, int64_t rows, int64_t columns) {
  for (int64_t r = row; r < row + rows; ++r)
    for (int64_t c = column; c < column + columns; ++c) {
      float sum = 0;
      for (int64_t k = 0; k < m.inner; ++k) sum += m.a[r * m.inner + k] * m.b[k * m.columns + c];
      m.out[r * m.columns + c] += m.factor * sum;
    }
}

}  // namespace

void add_product(float* out, const float* a, const float* b, int64_t rows, int64_t inner, int64_t columns, float factor,
                 ThreadPool& pool) {
  Matrices m{out, a, b, inner, columns, factor};
  pool.parallel_for(rows, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t column = 0; column < columns; column += kTile)
      for (int64_t row = begin; row < end; row += 4) {
        int64_t height = std::min<int64_t>(4, end - row), width = std::min<int64_t>(kTile, columns - column);
        if (height == 4 && width == kTile)
          add_tile(m, row, column);
        else
          add_edge(m, row, column, height, width);
      }
  });
}

}  // namespace sinter
