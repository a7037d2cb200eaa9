#include "shapes/coverage.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "shapes/test_tools.h"

using namespace sinter;
using namespace sinter::shapes;

namespace {

using Wide = __int128;
constexpr int kWidth = 45, kHeight = 33;

/// One byte for each pixel: 1 where a shape covers it. Fails where spans overlap, lie outside or come out of order.
std::vector<uint8_t> covered(const Shape& s, int stride = 1) {
  std::vector<uint8_t> map(kWidth * kHeight, 0);
  for (int first = 0; first < stride; ++first) {
    int last_row = -1, last_end = -1;
    for_each_span(s, {kWidth, kHeight, first, stride}, [&](int row, int begin, int end) {
      REQUIRE((0 <= begin && begin < end && end <= kWidth && 0 <= row && row < kHeight));
      REQUIRE((row > last_row || (row == last_row && begin > last_end - 1)));
      last_row = row, last_end = end;
      for (int x = begin; x < end; ++x) REQUIRE(map[size_t(row * kWidth + x)]++ == 0);
    });
  }
  return map;
}

bool in_polygon(const Point* points, int count, Wide x, Wide y) {
  bool inside = false;
  for (int i = 0; i < count; ++i) {
    Point a = points[i], b = points[(i + 1) % count];
    if (a.y > b.y) std::swap(a, b);
    if (a.y <= y && y < b.y && (x - a.x) * (b.y - a.y) >= (y - a.y) * Wide(b.x - a.x)) inside = !inside;
  }
  return inside;
}

bool near_segment(Point a, Point b, Wide width, Wide x, Wide y) {
  Wide dx = b.x - a.x, dy = b.y - a.y, along = (x - a.x) * dx + (y - a.y) * dy, length = dx * dx + dy * dy;
  auto near = [&](Point p) { return 4 * ((x - p.x) * (x - p.x) + (y - p.y) * (y - p.y)) <= width * width; };
  if (along <= 0) return near(a);
  if (along >= length) return near(b);
  Wide cross = (x - a.x) * dy - (y - a.y) * dx;
  return 4 * cross * cross <= width * width * length;
}

/// The rules of docs/shapes.md for one pixel centre, one inequality after the other. Kinds with irrational corners: after
/// rounding.
bool covers(const Shape& s, Wide x, Wide y) {
  const Point* p = s.points;
  switch (s.kind) {
    case Kind::triangle:
    case Kind::quadrilateral:
    case Kind::polygon:
      return in_polygon(p, s.count, x, y);
    case Kind::rectangle:
      return std::min(p[0].x, p[1].x) <= x && x < std::max(p[0].x, p[1].x) && std::min(p[0].y, p[1].y) <= y &&
             y < std::max(p[0].y, p[1].y);
    case Kind::rotated_rectangle: {
      Point corners[4];
      rotated_corners(s, corners);
      return in_polygon(corners, 4, x, y);
    }
    case Kind::circle:
      return (x - p[0].x) * (x - p[0].x) + (y - p[0].y) * (y - p[0].y) <= Wide(p[1].x) * p[1].x;
    default: {
      Point path[kCurveSegments + 1];
      int points = detail::stroke_path(s, path);
      for (int i = 0; i + 1 < points; ++i)
        if (near_segment(path[i], path[i + 1], s.width, x, y)) return true;
      return false;
    }
  }
}

/// Where a pixel centre lies in an ellipse whose half-axes are `grown` longer: below 1 inside.
double ellipse_measure(const Shape& s, double x, double y, double grown) {
  double angle = s.kind == Kind::rotated_ellipse ? s.angle * (2 * M_PI / kTurn) : 0.0;
  x -= s.points[0].x, y -= s.points[0].y;
  double u = (x * std::cos(angle) + y * std::sin(angle)) / (s.points[1].x + grown);
  double v = (y * std::cos(angle) - x * std::sin(angle)) / (s.points[1].y + grown);
  return u * u + v * v;
}

constexpr Kind kExactKinds[] = {Kind::triangle, Kind::rectangle, Kind::rotated_rectangle, Kind::circle, Kind::quadrilateral,
                                Kind::polygon,  Kind::line,      Kind::polyline,          Kind::bezier};

}  // namespace

TEST_CASE("a shape covers the pixels whose centres lie in it, exactly") {
  for (Kind kind : kExactKinds) {
    int64_t pixels = 0, wrong = 0;
    for (uint32_t i = 0; i < 3000; ++i) {
      Random random(1, uint32_t(kind), 0, i);
      Shape s = wild_shape(random, kind, kWidth, kHeight);
      auto map = covered(s);
      for (int y = 0; y < kHeight; ++y)
        for (int x = 0; x < kWidth; ++x) {
          bool is = map[size_t(y * kWidth + x)] != 0;
          pixels += is;
          wrong += is != covers(s, pixel_centre(x), pixel_centre(y));
        }
    }
    CAPTURE(kind_name(kind));
    CHECK(wrong == 0);
    CHECK(pixels > 3000 * 20);
  }
}

TEST_CASE("an ellipse covers what it should but for an eighth of a pixel along its edge") {
  for (Kind kind : {Kind::ellipse, Kind::rotated_ellipse}) {
    int64_t pixels = 0, wrong = 0;
    for (uint32_t i = 0; i < 6000; ++i) {
      Random random(2, uint32_t(kind), 0, i);
      Shape s = wild_shape(random, kind, kWidth, kHeight);
      auto map = covered(s);
      const double tolerance = kUnitsPerPixel / 8;
      const bool thin = std::min(s.points[1].x, s.points[1].y) <= tolerance;
      for (int y = 0; y < kHeight; ++y)
        for (int x = 0; x < kWidth; ++x) {
          bool is = map[size_t(y * kWidth + x)] != 0;
          pixels += is;
          if (is)
            wrong += ellipse_measure(s, pixel_centre(x), pixel_centre(y), tolerance) > 1;
          else
            wrong += !thin && ellipse_measure(s, pixel_centre(x), pixel_centre(y), -tolerance) < 1;
        }
    }
    CAPTURE(kind_name(kind));
    CHECK(wrong == 0);
    CHECK(pixels > 6000 * 20);
  }
}

TEST_CASE("an ellipse with equal half-axes is the circle, whatever its angle") {
  for (uint32_t i = 0; i < 2000; ++i) {
    Random random(3, 0, 0, i);
    Shape circle = wild_shape(random, Kind::circle, kWidth, kHeight);
    Shape ellipse = circle;
    ellipse.kind = Kind::ellipse;
    CHECK(covered(ellipse) == covered(circle));
  }
}

TEST_CASE("rows taken by turns are the rows taken at once") {
  for (int kind = 0; kind < kKinds; ++kind)
    for (uint32_t i = 0; i < 500; ++i) {
      Random random(4, uint32_t(kind), 0, i);
      Shape s = wild_shape(random, Kind(kind), kWidth, kHeight);
      auto whole = covered(s);
      CHECK(covered(s, 3) == whole);
      CHECK(covered(s, 32) == whole);
    }
}

TEST_CASE("two triangles that share an edge cover each pixel of their union once") {
  for (uint32_t i = 0; i < 1000; ++i) {
    Random random(5, 0, 0, i);
    Shape s = wild_shape(random, Kind::rotated_rectangle, kWidth, kHeight);
    Point corners[4];
    rotated_corners(s, corners);
    Shape first{.kind = Kind::triangle, .count = 3, .points = {corners[0], corners[1], corners[2]}};
    Shape second{.kind = Kind::triangle, .count = 3, .points = {corners[2], corners[3], corners[0]}};
    auto a = covered(first), b = covered(second), both = covered(s);
    int64_t wrong = 0;
    for (size_t p = 0; p < both.size(); ++p) wrong += a[p] + b[p] != both[p];
    CHECK(wrong == 0);
  }
}

TEST_CASE("a quadrilateral that crosses itself leaves out what it winds around twice or not at all") {
  Shape bow{.kind = Kind::quadrilateral, .count = 4, .points = {{0, 0}, {320, 320}, {320, 0}, {0, 320}}};
  auto map = covered(bow);
  CHECK(map[10 * kWidth + 2] == 1);   // the left wing
  CHECK(map[10 * kWidth + 17] == 1);  // the right wing
  CHECK(map[2 * kWidth + 10] == 0);   // above the crossing
}

TEST_CASE("square roots, sines and divisions are what real numbers say") {
  for (uint32_t i = 0; i < 100'000; ++i) {
    Random random(6, 0, 0, i);
    int64_t n = int64_t((uint64_t(random.next()) << 30 | random.next()) >> random.below(60)), root = square_root(n);
    REQUIRE((root * root <= n && (root + 1) * (root + 1) > n));
  }
  for (uint32_t angle = 0; angle < kTurn; ++angle) {
    REQUIRE(std::abs(double(sine(angle)) * 0x1p-30 - std::sin(angle * (2 * M_PI / kTurn))) < 0x1p-28);
    REQUIRE(std::abs(double(cosine(angle)) * 0x1p-30 - std::cos(angle * (2 * M_PI / kTurn))) < 0x1p-28);
  }
  static_assert(square_root(99) == 9 && square_root(100) == 10 && square_root((int64_t(1) << 62) - 1) == (int64_t(1) << 31) - 1);
  static_assert(floor_div(-7, 2) == -4 && ceil_div(-7, 2) == -3 && round_div(-7, 2) == -3 && round_div(7, 2) == 4);
}

TEST_CASE("random numbers are those of Philox 4x32-7") {
  Random random(0, 0, 0, 0);  // known answer for a counter and a key of zeros
  CHECK(random.next() == 0x4f730a48);
  CHECK(random.next() == 0x4f121f81);
  CHECK(random.next() == 0x0d893f64);
  CHECK(random.next() == 0x5f6fb709);
}
