#include "shapes/scanlines.h"

namespace sinter::shapes {
namespace {

/// from + (to - from) * part / whole, rounded down; whole > 0. The same whichever neighbour of a shared edge asks.
int64_t between(int64_t from, int64_t to, int64_t part, int64_t whole) {
  int64_t way = (to - from) * part, quotient = way / whole;
  return from + quotient - (way % whole < 0);
}

}  // namespace

Scanlines::Scanlines(int64_t width, int64_t rows)
    : width_(width), rows_(rows), cells_(size_t((width + 2) * rows)), touched_(size_t(rows), Row{width + 1, -1}) {}

void Scanlines::add(const Outline& outline, int64_t top) {
  top_ = top;
  uint32_t begin = 0;
  for (uint32_t end : outline.ends) {
    for (uint32_t i = begin; i < end; ++i) add_edge(outline.corners[i], outline.corners[i + 1 == end ? begin : i + 1]);
    begin = end;
  }
}

void Scanlines::add_edge(Corner a, Corner b) {
  if (a.y == b.y) return;
  int32_t sign = a.y < b.y ? 1 : -1;
  if (sign < 0) std::swap(a, b);  // shared edges must be cut into the same pieces from both sides
  int64_t first = std::max(a.y >> kCornerBits, top_), last = std::min((b.y - 1) >> kCornerBits, top_ + rows_ - 1);
  if (first > last) return;
  int64_t height = b.y - a.y;
  int64_t y = std::max(a.y, first << kCornerBits), x = between(a.x, b.x, y - a.y, height);
  for (int64_t row = first; row <= last; ++row) {
    int64_t next_y = std::min(b.y, (row + 1) << kCornerBits), next_x = between(a.x, b.x, next_y - a.y, height);
    add_piece(touched_[size_t(row - top_)], cells_.data() + (row - top_) * (width_ + 2), x, next_x, sign * int32_t(next_y - y));
    x = next_x;
    y = next_y;
  }
}

/// A piece of an edge within one row. What is left of the picture counts as its left border; what is right of it, not at all.
void Scanlines::add_piece(Row& row, int32_t* cells, int64_t from, int64_t to, int32_t height) {
  int64_t border = width_ << kCornerBits, low = std::min(from, to), high = std::max(from, to);
  if (high > border) row.last = width_ - 1;  // the sum does not return to zero within the row
  if (low >= 0 && high <= border) return add_inside(row, cells, from, to, height);
  if (high <= 0) return add_inside(row, cells, 0, 0, height);
  if (low >= border) return;
  int64_t cut = low < 0 ? 0 : border;
  auto part = int32_t(between(0, height, std::abs(cut - from), high - low));
  add_piece(row, cells, from, cut, part);
  add_piece(row, cells, cut, to, height - part);
}

void Scanlines::add_inside(Row& row, int32_t* cells, int64_t from, int64_t to, int32_t height) {
  int64_t low = std::min(from, to), high = std::max(from, to);
  int64_t x = low >> kCornerBits, last = std::max(x, (high - 1) >> kCornerBits);
  row.first = std::min(row.first, x);
  row.last = std::max(row.last, last + 1);
  int64_t begin = low;
  int32_t done = 0;
  for (; x <= last; ++x) {
    int64_t end = std::min(high, (x + 1) << kCornerBits);
    int32_t upto = x == last ? height : int32_t(between(0, height, end - low, high - low));
    auto left = int32_t(begin + end - (x << (kCornerBits + 1)));  // twice the mean distance from the cell's left side
    cells[x] += (upto - done) * (2 * kOne - left);
    cells[x + 1] += (upto - done) * left;
    done = upto;
    begin = end;
  }
}

}  // namespace sinter::shapes
