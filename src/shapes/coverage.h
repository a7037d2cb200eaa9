#pragma once
#include <stdint.h>

#include "shapes/integers.h"
#include "shapes/shape.h"

// Which pixels a shape covers, defined here for search, scoring, drawing and tests alike (docs/shapes.md states the rules).
// Compiled for GPUs as it stands.

namespace sinter::shapes {

/// The part of the picture that a caller wants: every `stride`-th row that a shape covers, beginning with its `first` one.
struct Rows {
  int width, height;
  int first = 0, stride = 1;
};

/// A quadratic curve is the path through this many points after its start.
constexpr int kCurveSegments = 8;

/// The first pixel, or row, whose centre is not before `coordinate`.
constexpr int32_t pixel_from(int32_t coordinate) { return (coordinate + kUnitsPerPixel / 2 - 1) >> 4; }
/// The first pixel whose centre lies behind `coordinate`.
constexpr int32_t pixel_after(int32_t coordinate) { return (coordinate + kUnitsPerPixel / 2) >> 4; }
constexpr int32_t pixel_centre(int32_t pixel) { return pixel * kUnitsPerPixel + kUnitsPerPixel / 2; }

namespace detail {

template <class Sink>
constexpr void clipped(const Rows& rows, int row, int begin, int end, Sink& sink) {
  begin = larger(begin, 0);
  end = smaller(end, rows.width);
  if (begin < end) sink(row, begin, end);
}

template <class Sink>
constexpr void rectangle_spans(Point a, Point b, const Rows& rows, Sink& sink) {
  int left = pixel_from(smaller(a.x, b.x)), right = pixel_from(larger(a.x, b.x));
  int top = larger(pixel_from(smaller(a.y, b.y)), 0), bottom = smaller(pixel_from(larger(a.y, b.y)), rows.height);
  for (int row = top + rows.first; row < bottom; row += rows.stride) clipped(rows, row, left, right, sink);
}

/// An edge of a polygon. It belongs to the rows [top, bottom) whose centres lie between its ends.
struct Edge {
  int32_t x, y, dx, dy;  ///< upper end, and the way to the lower one
  int32_t top, bottom;
};

/// Where an edge crosses the centres of rows: the first pixel whose centre is not left of the edge, exactly, by adding whole
/// steps and remainders.
struct Crossing {
  int32_t pixel, step;
  int32_t rest, rest_step, divisor;  // at most 16 dy, far below 2^31

  constexpr Crossing() : pixel(0), step(0), rest(0), rest_step(0), divisor(1) {}
  constexpr Crossing(const Edge& e, int row, int stride) : divisor(kUnitsPerPixel * e.dy) {
    // pixel = ceil((x - 8) / 16) with x = e.x + (centre of the row - e.y) dx / dy
    int64_t top = int64_t(e.x - kUnitsPerPixel / 2) * e.dy + int64_t(pixel_centre(row) - e.y) * e.dx + divisor - 1;
    int64_t quotient = floor_div(top, divisor);
    rest = int32_t(top - quotient * divisor);
    pixel = int32_t(quotient);
    int64_t way = int64_t(e.dx) * stride, whole = floor_div(way, e.dy);
    step = int32_t(whole);
    rest_step = int32_t(way - whole * e.dy) * kUnitsPerPixel;
  }
  constexpr void advance() {
    rest += rest_step;
    const int32_t over = rest >= divisor;
    rest -= divisor & -over;
    pixel += step + over;
  }
};

/// Inside is where a row crosses the outline an odd number of times to the left of the pixel's centre or at it (even-odd rule).
template <class Sink>
constexpr void polygon_spans(const Point* points, int count, const Rows& rows, Sink& sink) {
  Edge edges[kMaxPoints];
  int edge_count = 0;
  int32_t ends[2 * kMaxPoints];  // rows where an edge begins or ends, in order
  int end_count = 0;
  for (int i = 0; i < count; ++i) {
    Point a = points[i], b = points[i + 1 == count ? 0 : i + 1];
    if (b.y < a.y) {
      Point swapped = a;
      a = b, b = swapped;
    }
    int32_t top = clamped(pixel_from(a.y), 0, rows.height), bottom = clamped(pixel_from(b.y), 0, rows.height);
    if (top >= bottom) continue;
    edges[edge_count++] = {a.x, a.y, b.x - a.x, b.y - a.y, top, bottom};
    for (int which = 0; which < 2; ++which) {
      const int32_t end = which == 0 ? top : bottom;
      int at = end_count;
      while (at > 0 && ends[at - 1] > end) --at;
      if (at > 0 && ends[at - 1] == end) continue;
      for (int j = end_count++; j > at; --j) ends[j] = ends[j - 1];
      ends[at] = end;
    }
  }
  if (edge_count == 0) return;
  int row = ends[0] + rows.first;
  for (int band = 0; band + 1 < end_count; ++band) {  // between two ends the same edges are crossed
    const int last = ends[band + 1];
    if (row >= last) continue;
    Crossing crossings[kMaxPoints];
    int crossed = 0;
    for (int i = 0; i < edge_count; ++i)
      if (edges[i].top <= ends[band] && edges[i].bottom >= last) crossings[crossed++] = Crossing(edges[i], row, rows.stride);
    if (crossed == 2) {
      Crossing a = crossings[0], b = crossings[1];
      for (; row < last; row += rows.stride) {
        clipped(rows, row, smaller(a.pixel, b.pixel), larger(a.pixel, b.pixel), sink);
        a.advance(), b.advance();
      }
      continue;
    }
    for (; row < last; row += rows.stride) {
      int32_t pixels[kMaxPoints];
      for (int i = 0; i < crossed; ++i) {
        int at = i;
        for (; at > 0 && pixels[at - 1] > crossings[i].pixel; --at) pixels[at] = pixels[at - 1];
        pixels[at] = crossings[i].pixel;
        crossings[i].advance();
      }
      for (int i = 0; i + 1 < crossed; i += 2) clipped(rows, row, pixels[i], pixels[i + 1], sink);
    }
  }
}

/// An ellipse as rows see it: in the row dy below the centre it reaches `ratio` sqrt(height^2 - dy^2) to both sides of a centre
/// that `shear` dy moves.
struct Ellipse {
  int64_t height_squared;  ///< in 2^-20 units^2
  int64_t ratio;           ///< in 2^-16
  int64_t shear;           ///< in 2^-16
};

constexpr Ellipse ellipse_of(const Shape& s) {
  int64_t a = clamped(s.points[1].x, 1, kRadiusLimit), b = clamped(s.points[1].y, 1, kRadiusLimit);
  if (s.kind != Kind::rotated_ellipse) return {b * b << 20, floor_div(a << 16, b), 0};
  int64_t sin = sine(s.angle) >> 15, cos = cosine(s.angle) >> 15;  // in 2^-15, squares in 2^-30
  Ellipse e{};
  e.height_squared = (a * a * (sin * sin) + b * b * (cos * cos)) >> 10;
  int64_t squared = larger<int64_t>(e.height_squared >> 6, 1);  // in 2^-14
  e.ratio = floor_div(a * b << 30, squared);
  // (a^2 - b^2) sin cos is at most 2^30 in size before the shift; halved it stays within 64 bits
  e.shear = round_div((a * a - b * b) * (sin * cos >> 1), larger<int64_t>(squared >> 1, 1));
  return e;
}

/// How far the row at `dy` reaches to both sides, in units; -1 where it does not.
constexpr int64_t ellipse_reach(const Ellipse& e, int64_t dy) {
  int64_t rest = e.height_squared - (dy * dy << 20);
  return rest < 0 ? -1 : square_root(rest) * e.ratio >> 26;
}

template <class Sink>
constexpr void ellipse_spans(const Shape& s, const Rows& rows, Sink& sink) {
  const Ellipse e = ellipse_of(s);
  const Point centre = s.points[0];
  const int32_t height = int32_t(square_root(e.height_squared >> 20)) + 1;
  int top = larger(pixel_from(centre.y - height), 0), bottom = smaller(pixel_after(centre.y + height), rows.height);
  for (int row = top + rows.first; row < bottom; row += rows.stride) {
    int64_t dy = pixel_centre(row) - centre.y, reach = ellipse_reach(e, dy);
    if (reach < 0) continue;
    auto middle = int32_t(centre.x + ((e.shear * dy + 32768) >> 16)), half = int32_t(reach);
    clipped(rows, row, pixel_from(middle - half), pixel_after(middle + half), sink);
  }
}

/// floor(top / divisor) for a top that grows by the same way from row to row, exactly, without dividing again.
struct Quotient {
  int64_t value = 0, step = 0, rest = 0, rest_step = 0, divisor = 1;

  constexpr Quotient() = default;
  constexpr Quotient(int64_t top, int64_t way, int64_t by)
      : value(floor_div(top, by)), step(floor_div(way, by)), rest(top - value * by), rest_step(way - step * by), divisor(by) {}
  constexpr void advance() {
    rest += rest_step;
    const int64_t over = rest >= divisor;
    rest -= divisor & -over;
    value += step + over;
  }
};

/// The pixels of a row with low <= slope x + rise y + offset <= high at their centres, slope != 0, from row to row.
struct Band {
  Quotient begin, last;

  constexpr Band() = default;
  constexpr Band(int64_t slope, int64_t rise, int64_t offset, int64_t low, int64_t high, int row, int stride) {
    if (slope < 0) {
      slope = -slope, rise = -rise, offset = -offset;
      const int64_t negated = -low;
      low = -high, high = negated;
    }
    const int64_t at = slope * (kUnitsPerPixel / 2) + rise * pixel_centre(row) + offset;
    const int64_t divisor = slope * kUnitsPerPixel, way = -rise * kUnitsPerPixel * stride;
    begin = Quotient(low - at + divisor - 1, way, divisor);
    last = Quotient(high - at, way, divisor);
  }
  constexpr void cut(int64_t& from, int64_t& to) {
    from = larger(from, begin.value);
    to = smaller(to, last.value + 1);
    begin.advance(), last.advance();
  }
};

/// What is at most `width` / 2 away from a piece of a path, exactly: two discs and the strip between them.
class Capsule {
 public:
  int32_t top = 0, bottom = 0;  ///< rows that it may cover

  constexpr Capsule() = default;
  constexpr Capsule(Point from, Point to, int32_t width, int height)
      : a_(from), b_(to), dx_(int64_t(to.x) - from.x), dy_(int64_t(to.y) - from.y), diameter_squared_(int64_t(width) * width) {
    length_squared_ = dx_ * dx_ + dy_ * dy_;
    reach_ = square_root(diameter_squared_ * length_squared_ >> 2);
    top = larger(pixel_from(smaller(a_.y, b_.y) - width / 2 - 1), 0);
    bottom = smaller(pixel_after(larger(a_.y, b_.y) + width / 2 + 1), height);
  }
  /// The pixels [begin, end) of a row; they hang together because the capsule is convex. Empty: begin >= end. To be called for
  /// rows that are `stride` apart, beginning with any.
  constexpr void row(int32_t row, int stride, int32_t& begin, int32_t& end) {
    constexpr int32_t kFar = 1 << 20;
    begin = kFar, end = -kFar;
    const int64_t y = pixel_centre(row);
    add_disc(a_, y, begin, end);
    add_disc(b_, y, begin, end);
    if (length_squared_ == 0) return;
    if (!entered_) enter(row, stride);
    int64_t from = -kFar, to = kFar;
    if (dy_ != 0)
      side_.cut(from, to);
    else if ((y - a_.y) * dx_ > reach_ || (y - a_.y) * dx_ < -reach_)
      to = from;
    if (dx_ != 0)
      ends_.cut(from, to);
    else if ((y - a_.y) * dy_ < 0 || (y - a_.y) * dy_ > length_squared_)
      to = from;
    if (from >= to) return;
    begin = smaller(begin, int32_t(from));
    end = larger(end, int32_t(to));
  }

 private:
  /// Widens [begin, end) by the disc around one end.
  constexpr void add_disc(Point centre, int64_t y, int32_t& begin, int32_t& end) const {
    int64_t rest = diameter_squared_ - 4 * (y - centre.y) * (y - centre.y);
    if (rest < 0) return;
    auto half = int32_t(square_root(rest >> 2));
    begin = smaller(begin, pixel_from(centre.x - half));
    end = larger(end, pixel_after(centre.x + half));
  }
  constexpr void enter(int32_t row, int stride) {
    entered_ = true;
    // The cross product with the direction is at most `reach` in size, the dot product lies within the piece.
    if (dy_ != 0) side_ = Band(dy_, -dx_, a_.y * dx_ - a_.x * dy_, -reach_, reach_, row, stride);
    if (dx_ != 0) ends_ = Band(dx_, dy_, -a_.x * dx_ - a_.y * dy_, 0, length_squared_, row, stride);
  }

  Point a_{}, b_{};
  int64_t dx_ = 0, dy_ = 0, diameter_squared_ = 0, length_squared_ = 0;
  int64_t reach_ = 0;  // the strip is where the cross product with (dx, dy) is at most this in size
  bool entered_ = false;
  Band side_, ends_;
};

/// The path of a stroke as points; returns how many.
constexpr int stroke_path(const Shape& s, Point* path) {
  if (s.kind != Kind::bezier) {
    for (int i = 0; i < s.count; ++i) path[i] = s.points[i];
    return s.count;
  }
  constexpr int64_t n = kCurveSegments;
  for (int64_t i = 0; i <= n; ++i) {
    int64_t first = (n - i) * (n - i), middle = 2 * i * (n - i), last = i * i;
    path[i] = {int32_t(round_div(first * s.points[0].x + middle * s.points[1].x + last * s.points[2].x, n * n)),
               int32_t(round_div(first * s.points[0].y + middle * s.points[1].y + last * s.points[2].y, n * n))};
  }
  return int(n) + 1;
}

template <class Sink>
constexpr void stroke_spans(const Shape& s, const Rows& rows, Sink& sink) {
  Point path[kCurveSegments + 1];
  const int points = stroke_path(s, path);
  Capsule capsules[kCurveSegments];
  int pieces = points - 1, top = rows.height, bottom = 0;
  for (int i = 0; i < pieces; ++i) {
    capsules[i] = Capsule(path[i], path[i + 1], s.width, rows.height);
    top = smaller(top, int(capsules[i].top));
    bottom = larger(bottom, int(capsules[i].bottom));
  }
  for (int row = top + rows.first; row < bottom; row += rows.stride) {
    int32_t begins[kCurveSegments], ends[kCurveSegments];
    int intervals = 0;
    for (int i = 0; i < pieces; ++i) {
      if (row < capsules[i].top || row >= capsules[i].bottom) continue;
      int32_t begin = 0, end = 0;
      capsules[i].row(row, rows.stride, begin, end);
      if (begin >= end) continue;
      int at = intervals++;
      for (; at > 0 && begins[at - 1] > begin; --at) begins[at] = begins[at - 1], ends[at] = ends[at - 1];
      begins[at] = begin, ends[at] = end;
    }
    for (int i = 0; i < intervals;) {
      int32_t begin = begins[i], end = ends[i];
      for (++i; i < intervals && begins[i] <= end; ++i) end = larger(end, ends[i]);
      clipped(rows, row, begin, end, sink);
    }
  }
}

}  // namespace detail

/// The corners of a rotated rectangle, rounded to whole units; the polygon through them is what it covers.
constexpr void rotated_corners(const Shape& s, Point corners[4]) {
  int64_t sin = sine(s.angle), cos = cosine(s.angle);
  auto rounded = [](int64_t value) { return int32_t((value + (int64_t(1) << (kSineBits - 1))) >> kSineBits); };
  int32_t ax = rounded(s.points[1].x * cos), ay = rounded(s.points[1].x * sin);
  int32_t bx = rounded(-s.points[1].y * sin), by = rounded(s.points[1].y * cos);
  Point c = s.points[0];
  corners[0] = {c.x + ax + bx, c.y + ay + by};
  corners[1] = {c.x - ax + bx, c.y - ay + by};
  corners[2] = {c.x - ax - bx, c.y - ay - by};
  corners[3] = {c.x + ax - bx, c.y + ay - by};
}

/// Calls sink(row, begin, end) for the pixels that a shape covers: spans [begin, end) inside the picture, rows in rising order,
/// spans of a row from left to right and apart from each other.
template <class Sink>
constexpr void for_each_span(const Shape& s, const Rows& rows, Sink&& sink) {
  switch (s.kind) {
    case Kind::triangle:
    case Kind::quadrilateral:
    case Kind::polygon:
      return detail::polygon_spans(s.points, s.count, rows, sink);
    case Kind::rectangle:
      return detail::rectangle_spans(s.points[0], s.points[1], rows, sink);
    case Kind::rotated_rectangle: {
      Point corners[4];
      rotated_corners(s, corners);
      return detail::polygon_spans(corners, 4, rows, sink);
    }
    case Kind::circle:
    case Kind::ellipse:
    case Kind::rotated_ellipse:
      return detail::ellipse_spans(s, rows, sink);
    case Kind::line:
    case Kind::polyline:
    case Kind::bezier:
      return detail::stroke_spans(s, rows, sink);
  }
}

}  // namespace sinter::shapes
