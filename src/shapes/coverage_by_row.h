#pragma once
#include <stdint.h>

#include "shapes/coverage.h"
#include "shapes/integers.h"
#include "shapes/shape.h"

// The coverage of coverage.h for whoever takes rows in any order and has no memory for arrays, as a lane of a GPU: every row by
// itself, all numbers of 32 bits, loops of fixed length, quotients and roots from an estimate and the sign of what is left.
// coverage_by_row_test.cpp compares the two. Compiled for GPUs as it stands.

namespace sinter::shapes {

/// An edge of a polygon for rows in any order.
struct RowEdge {
  int32_t x = 0, y = 0, dx = 0, dy = 0;  ///< upper end, and the way to the lower one
  int32_t top = 0, bottom = 0;           ///< rows whose centres lie between the ends
  float slope = 0;                       ///< about dx / dy

  constexpr RowEdge() = default;
  RowEdge(Point a, Point b, int height) {
    const bool down = a.y <= b.y;
    x = down ? a.x : b.x, y = down ? a.y : b.y;
    dx = down ? b.x - a.x : a.x - b.x, dy = down ? b.y - a.y : a.y - b.y;
    top = clamped(pixel_from(y), 0, height), bottom = clamped(pixel_from(y + dy), 0, height);
    slope = float(dx) * reciprocal_estimate(float(larger(dy, 1)));
  }
  /// The first pixel whose centre is not left of the edge; kNone in rows that the edge does not cross.
  static constexpr int32_t kNone = 1 << 24;
  int32_t crossing(int32_t row) const {
    if (row < top || row >= bottom) return kNone;
    const int32_t way = pixel_centre(row) - y, near = nearest(float(way) * slope);
    // What is left of way dx / dy has the size of dy at most, so it survives products that wrap around.
    const auto left = int32_t(uint32_t(way) * uint32_t(dx) - uint32_t(near) * uint32_t(dy));
    return pixel_from(x + near + (left > 0));
  }
};

namespace detail {

SINTER_ALWAYS_INLINE void put_in_order(int32_t& a, int32_t& b) {
  const int32_t low = smaller(a, b), high = larger(a, b);
  a = low, b = high;
}

/// Networks that sort; kNumbers of 2, 4, 6 or 8.
template <int kNumbers>
SINTER_ALWAYS_INLINE void sort(int32_t (&v)[kNumbers]) {
  auto pair = [&](int a, int b) __attribute__((always_inline)) { put_in_order(v[a], v[b]); };
  if constexpr (kNumbers == 2) pair(0, 1);
  if constexpr (kNumbers == 4) pair(0, 1), pair(2, 3), pair(0, 2), pair(1, 3), pair(1, 2);
  if constexpr (kNumbers == 6) {
    pair(0, 5), pair(1, 3), pair(2, 4), pair(1, 2), pair(3, 4), pair(0, 3);
    pair(2, 5), pair(0, 1), pair(2, 3), pair(4, 5), pair(1, 2), pair(3, 4);
  }
  if constexpr (kNumbers == 8) {
    pair(0, 1), pair(2, 3), pair(4, 5), pair(6, 7), pair(0, 2), pair(1, 3), pair(4, 6), pair(5, 7), pair(1, 2), pair(5, 6);
    pair(0, 4), pair(3, 7), pair(1, 5), pair(2, 6), pair(1, 4), pair(3, 6), pair(2, 4), pair(3, 5), pair(3, 4);
  }
}

/// Polygons of up to kMost corners, 4 or 6: those with an odd number of crossings left of them or at them.
template <int kMost, class Sink>
SINTER_ALWAYS_INLINE void polygon_by_row(const Point* points, int count, const Rows& rows, Sink& sink) {
  RowEdge edges[kMost];
  int32_t top = rows.height, bottom = 0;
  SINTER_UNROLL_LOOP
  for (int i = 0; i < kMost; ++i) {
    if (i >= count) continue;
    edges[i] = RowEdge(points[i], i + 1 < kMost && i + 1 < count ? points[i + 1 < kMost ? i + 1 : 0] : points[0], rows.height);
    if (edges[i].top >= edges[i].bottom) continue;
    top = smaller(top, edges[i].top), bottom = larger(bottom, edges[i].bottom);
  }
  for (int row = top + rows.first; row < bottom; row += rows.stride) {
    int32_t pixels[kMost];
    SINTER_UNROLL_LOOP
    for (int i = 0; i < kMost; ++i) pixels[i] = edges[i].crossing(row);
    sort(pixels);
    SINTER_UNROLL_LOOP
    for (int i = 0; i < kMost; i += 2)
      if (pixels[i] != RowEdge::kNone) clipped(rows, row, pixels[i], pixels[i + 1], sink);
  }
}

}  // namespace detail

/// A piece of a stroke's path, and what is at most half the stroke's width away, as Capsule has it. For the search's shapes,
/// whose points are 1.25 * 2048 pixels apart at most: no number here has more than 31 bits then.
struct StrokePiece {
  /// In no row of a picture.
  static constexpr int32_t kNone = 0x7fffffff;
  int32_t top = 0, bottom = 0;  ///< rows that it may cover

  constexpr StrokePiece() = default;
  StrokePiece(Point from, Point to, int32_t width, int height) : a_(from), b_(to), width_(width) {
    dx_ = to.x - from.x, dy_ = to.y - from.y;
    const int64_t length_squared = int64_t(dx_) * dx_ + int64_t(dy_) * dy_;
    reach_ = int32_t(square_root(int64_t(width) * width * length_squared >> 2));
    per_dx_ = reciprocal_estimate(float(larger(magnitude(dx_), 1)));
    per_dy_ = reciprocal_estimate(float(larger(magnitude(dy_), 1)));
    top = larger(pixel_from(smaller(a_.y, b_.y) - width / 2 - 1), 0);
    bottom = smaller(pixel_after(larger(a_.y, b_.y) + width / 2 + 1), height);
  }
  /// The pixels of a row within a picture of this width: the first one times 2^16 plus the one after the last.
  int32_t row(int32_t row, int width) const {
    const int32_t y = pixel_centre(row);
    int32_t begin = kFar, end = -kFar;
    add_disc(a_, y, begin, end);
    add_disc(b_, y, begin, end);
    add_strip(y, begin, end);
    begin = larger(begin, 0), end = smaller(end, width);
    return begin < end ? begin << 16 | end : kNone;
  }

 private:
  static constexpr int32_t kFar = 1 << 20;
  static constexpr int32_t magnitude(int32_t value) { return value < 0 ? -value : value; }

  void add_disc(Point centre, int32_t y, int32_t& begin, int32_t& end) const {
    const int32_t twice = 2 * magnitude(y - centre.y);
    if (twice > width_) return;
    const int32_t half = square_root_of_word((width_ * width_ - twice * twice) >> 2);
    begin = smaller(begin, pixel_from(centre.x - half));
    end = larger(end, pixel_after(centre.x + half));
  }
  /// top / by, rounded up or down; anything beyond every picture where it is that large.
  struct Quotient {
    int32_t near, left;
    Quotient(int32_t top, int32_t by, float per) {
      near = nearest(clamped(float(top) * per, -float(kFar), float(kFar)));
      left = int32_t(uint32_t(top) - uint32_t(near) * uint32_t(by));
    }
    int32_t up() const { return near + (left > 0); }
    int32_t down() const { return near - (left < 0); }
  };
  /// What lies beside the piece: the cross product with its direction is at most reach_ in size, and the foot is on it.
  void add_strip(int32_t y, int32_t& begin, int32_t& end) const {
    if ((dx_ | dy_) == 0) return;
    const int32_t below_a = y - a_.y, below_b = y - b_.y;
    int32_t from = -kFar, to = kFar;  // first and last unit
    if (dy_ != 0) {
      const int32_t across = dy_ < 0 ? -dx_ * below_a : dx_ * below_a;
      from = a_.x + Quotient(across - reach_, magnitude(dy_), per_dy_).up();
      to = a_.x + Quotient(across + reach_, magnitude(dy_), per_dy_).down();
    } else if (magnitude(below_a * dx_) > reach_) {
      return;
    }
    if (dx_ != 0) {
      // The dot product grows towards b: at least 0 with the way from a, at most 0 with that from b.
      const int32_t rise = dx_ < 0 ? dy_ : -dy_;
      const Point first = dx_ < 0 ? b_ : a_, last = dx_ < 0 ? a_ : b_;
      const int32_t below_first = dx_ < 0 ? below_b : below_a, below_last = dx_ < 0 ? below_a : below_b;
      from = larger(from, first.x + Quotient(rise * below_first, magnitude(dx_), per_dx_).up());
      to = smaller(to, last.x + Quotient(rise * below_last, magnitude(dx_), per_dx_).down());
    } else if ((below_a < 0) == (below_b < 0) && below_a != 0 && below_b != 0) {
      return;
    }
    const int32_t from_pixel = pixel_from(from), to_pixel = pixel_after(to);
    if (from_pixel >= to_pixel) return;
    begin = smaller(begin, from_pixel);
    end = larger(end, to_pixel);
  }

  Point a_{}, b_{};
  int32_t dx_ = 0, dy_ = 0, width_ = 0, reach_ = 0;
  float per_dx_ = 0, per_dy_ = 0;  // about one over the sizes of dx and dy
};

constexpr int stroke_pieces(const Shape& s) { return s.kind == Kind::bezier ? kCurveSegments : s.count - 1; }

/// Point `index` of stroke_path().
SINTER_ALWAYS_INLINE Point stroke_point(const Shape& s, int index) {
  if (s.kind == Kind::bezier) {
    constexpr int n = kCurveSegments;
    static_assert(n * n == 64);
    const int first = (n - index) * (n - index), middle = 2 * index * (n - index), last = index * index;
    return {(first * s.points[0].x + middle * s.points[1].x + last * s.points[2].x + 32) >> 6,
            (first * s.points[0].y + middle * s.points[1].y + last * s.points[2].y + 32) >> 6};
  }
  Point point = s.points[0];
  SINTER_UNROLL_LOOP
  for (int i = 1; i < kMaxPoints; ++i) point = i == index ? s.points[i] : point;
  return point;
}

/// The spans of a row from what StrokePiece::row() gave for each piece.
template <class Sink>
SINTER_ALWAYS_INLINE void united_spans(int32_t (&pieces)[kCurveSegments], int row, Sink& sink) {
  detail::sort(pieces);
  for (int32_t past = -1;;) {
    int32_t begin = -1, end = -1;
    bool apart = false;
    SINTER_UNROLL_LOOP
    for (int i = 0; i < kCurveSegments; ++i) {
      const int32_t from = pieces[i] >> 16, to = pieces[i] & 0xffff;
      if (pieces[i] == StrokePiece::kNone || from <= past || apart) continue;
      apart = begin >= 0 && from > end;
      if (apart) continue;
      begin = begin < 0 ? from : begin;
      end = larger(end, to);
    }
    if (begin < 0) return;
    sink(row, begin, end);
    past = end;
  }
}

/// for_each_span() for all kinds but strokes.
template <class Sink>
SINTER_ALWAYS_INLINE void spans_by_row(const Shape& s, const Rows& rows, Sink&& sink) {
  switch (s.kind) {
    case Kind::polygon:
      return detail::polygon_by_row<6>(s.points, s.count, rows, sink);
    case Kind::triangle:
    case Kind::quadrilateral:
    case Kind::rotated_rectangle: {
      Point corners[4] = {s.points[0], s.points[1], s.points[2], s.points[3]};
      if (s.kind == Kind::rotated_rectangle) rotated_corners(s, corners);
      return detail::polygon_by_row<4>(corners, s.kind == Kind::triangle ? 3 : 4, rows, sink);
    }
    case Kind::rectangle:
      return detail::rectangle_spans(s.points[0], s.points[1], rows, sink);
    case Kind::circle:
    case Kind::ellipse:
    case Kind::rotated_ellipse:
      return detail::ellipse_spans(s, rows, sink);
    default:
      return;
  }
}

}  // namespace sinter::shapes
