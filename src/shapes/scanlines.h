#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "shapes/outline.h"

namespace sinter::shapes {

/// Exact areas that polygons cover in the pixels of some rows.
///
/// Every edge adds, for each row that it passes, its height times what lies to its right, signed by its direction. The cells
/// hold differences along the row: their running sum at a pixel is the covered area, times the number of turns around it, in
/// 1/kWhole pixel.
class Scanlines {
 public:
  static constexpr int32_t kOne = 1 << kCornerBits;
  static constexpr int32_t kWhole = 2 * kOne * kOne;

  Scanlines(int64_t width, int64_t rows);
  /// The parts of the outline in the rows [top, top + rows); what sweep() has read is zero again.
  void add(const Outline& outline, int64_t top);
  /// Calls visit(row, begin, end, area) for the runs of pixels that the outline added last touches; area in 1..255.
  template <class Visit>
  void sweep(bool even_odd, Visit&& visit);

 private:
  struct Row {
    int64_t first, last;  ///< cells that are not all zero
  };
  void add_edge(Corner a, Corner b);
  void add_piece(Row& row, int32_t* cells, int64_t from, int64_t to, int32_t height);
  void add_inside(Row& row, int32_t* cells, int64_t from, int64_t to, int32_t height);
  static int area(int32_t sum, bool even_odd);

  int64_t width_, top_ = 0, rows_;
  std::vector<int32_t> cells_;
  std::vector<Row> touched_;
};

inline int Scanlines::area(int32_t sum, bool even_odd) {
  sum = std::abs(sum);
  if (even_odd) {
    sum &= 2 * kWhole - 1;
    if (sum > kWhole) sum = 2 * kWhole - sum;
  }
  return int((int64_t(std::min(sum, kWhole)) * 255 + kWhole / 2) / kWhole);
}

template <class Visit>
void Scanlines::sweep(bool even_odd, Visit&& visit) {
  for (int64_t y = 0; y < rows_; ++y) {
    Row& row = touched_[size_t(y)];
    int32_t* cells = cells_.data() + y * (width_ + 2);
    int32_t sum = 0;
    for (int64_t x = row.first; x <= row.last;) {
      sum += cells[x];
      cells[x] = 0;
      int64_t begin = x++;
      while (x <= row.last && cells[x] == 0) ++x;
      int covered = area(sum, even_odd);
      int64_t end = std::min(x, width_);
      if (covered && begin < end) visit(y, begin, end, covered);
    }
    row = {width_ + 1, -1};
  }
}

}  // namespace sinter::shapes
