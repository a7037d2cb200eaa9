#include "models/low_rank.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "base/native_clones.h"
#include "base/rounding.h"

namespace sinter {
namespace {

constexpr int kLanes = 8, kColumns = 2 * kLanes, kRows = 4;  // of one tile
using Lanes = float __attribute__((vector_size(kLanes * sizeof(float)), aligned(4)));

/// tile[4, 16] = a[4, inner] . panel[inner, 16]. The tile stays in registers for the whole sum, and each value loaded from the
/// panel serves four rows; the names are spelled out because arrays would live in memory.
SINTER_NATIVE_CLONES void multiply_tile(const float* a0, const float* a1, const float* a2, const float* a3, const float* panel,
                                        int64_t inner, float* tile) {
  Lanes s00{}, s01{}, s10{}, s11{}, s20{}, s21{}, s30{}, s31{};
  for (int64_t k = 0; k < inner; ++k) {
    const Lanes low = *reinterpret_cast<const Lanes*>(panel + k * kColumns);
    const Lanes high = *reinterpret_cast<const Lanes*>(panel + k * kColumns + kLanes);
    s00 += a0[k] * low, s01 += a0[k] * high;
    s10 += a1[k] * low, s11 += a1[k] * high;
    s20 += a2[k] * low, s21 += a2[k] * high;
    s30 += a3[k] * low, s31 += a3[k] * high;
  }
  auto* out = reinterpret_cast<Lanes*>(tile);
  out[0] = s00, out[1] = s01, out[2] = s10, out[3] = s11, out[4] = s20, out[5] = s21, out[6] = s30, out[7] = s31;
}

/// b in panels of 16 columns, each contiguous (rows of b that lie a power of two apart would evict one another from the cache);
/// the last panel is filled with zeros.
std::vector<float> panels_of(const float* b, int64_t inner, int64_t columns) {
  const int64_t panels = divide_up(columns, kColumns);
  std::vector<float> out(size_t(panels * inner * kColumns));
  for (int64_t k = 0; k < inner; ++k)
    for (int64_t c = 0; c < columns; ++c) out[size_t((c / kColumns * inner + k) * kColumns + c % kColumns)] = b[k * columns + c];
  return out;
}

}  // namespace

RightFactor::RightFactor(const float* b, int64_t inner, int64_t columns)
    : inner_(inner), columns_(columns), panels_(panels_of(b, inner, columns)) {}

void RightFactor::add_product(float* out, const float* a, int64_t rows, float factor) const {
  for (int64_t column = 0; column < columns_; column += kColumns) {
    const float* panel = panels_.data() + column * inner_;
    const int64_t width = std::min<int64_t>(kColumns, columns_ - column);
    for (int64_t row = 0; row < rows; row += kRows) {
      // At the edge the last row is computed again rather than read beyond the end.
      auto line = [&](int64_t i) { return a + std::min(row + i, rows - 1) * inner_; };
      float tile[kRows * kColumns];
      multiply_tile(line(0), line(1), line(2), line(3), panel, inner_, tile);
      for (int64_t i = 0; i < std::min<int64_t>(kRows, rows - row); ++i) {
        float* to = out + (row + i) * columns_ + column;
        for (int64_t c = 0; c < width; ++c) to[c] += factor * tile[i * kColumns + c];
      }
    }
  }
}

void add_product(float* out, const float* a, const float* b, int64_t rows, int64_t inner, int64_t columns, float factor,
                 ThreadPool& pool) {
  const RightFactor right(b, inner, columns);
  pool.parallel_for(rows, 64, [&](int64_t begin, int64_t end, int) {
    right.add_product(out + begin * columns, a + begin * inner, end - begin, factor);
  });
}

}  // namespace sinter
