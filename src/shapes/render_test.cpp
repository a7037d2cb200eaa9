#include "shapes/render.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <numbers>

#include "shapes/render_test_help.h"

using namespace sinter;
using namespace sinter::shapes;

namespace {

struct Place {
  double x, y;
};

double distance_to_piece(Place p, Place a, Place b) {
  double dx = b.x - a.x, dy = b.y - a.y, squared = dx * dx + dy * dy;
  double t = squared > 0 ? std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / squared, 0.0, 1.0) : 0;
  return std::hypot(a.x + t * dx - p.x, a.y + t * dy - p.y);
}

/// Whether a place, in units, lies in a shape: the definitions of shape.h, written without outlines.
bool inside(const Shape& s, Place p) {
  const Point* q = s.points;
  double angle = double(s.angle) / kTurn * 2 * std::numbers::pi, x = p.x - q[0].x, y = p.y - q[0].y;
  double along = x * std::cos(angle) + y * std::sin(angle), across = y * std::cos(angle) - x * std::sin(angle);
  switch (s.kind) {
    case Kind::rectangle:
      return (p.x - q[0].x) * (p.x - q[1].x) < 0 && (p.y - q[0].y) * (p.y - q[1].y) < 0;
    case Kind::rotated_rectangle:
      return std::fabs(along) < q[1].x && std::fabs(across) < q[1].y;
    case Kind::circle:
    case Kind::ellipse:
    case Kind::rotated_ellipse:
      return std::hypot(along / q[1].x, across / q[1].y) < 1;
    case Kind::line:
    case Kind::polyline:
    case Kind::bezier: {
      double nearest = 1e9;
      auto place = [&](int i, int pieces) -> Place {
        if (s.kind != Kind::bezier) return {double(q[i].x), double(q[i].y)};
        double t = double(i) / pieces, u = 1 - t;
        return {u * u * q[0].x + 2 * u * t * q[1].x + t * t * q[2].x, u * u * q[0].y + 2 * u * t * q[1].y + t * t * q[2].y};
      };
      int pieces = s.kind == Kind::bezier ? 300 : s.count - 1;
      for (int i = 0; i < pieces; ++i) nearest = std::min(nearest, distance_to_piece(p, place(i, pieces), place(i + 1, pieces)));
      return nearest <= s.width / 2.0;
    }
    default: {
      bool odd = false;
      for (int i = 0; i < s.count; ++i) {
        Point a = q[i], b = q[(i + 1) % s.count];
        if ((a.y > p.y) == (b.y > p.y)) continue;
        if (p.x < a.x + (p.y - a.y) * (b.x - a.x) / double(b.y - a.y)) odd = !odd;
      }
      return odd;
    }
  }
}

Result canvas(int side, std::vector<Shape> list) {
  Result r;
  r.width = r.height = side;
  for (const Shape& shape : list) r.steps.push_back({shape, 0});
  return r;
}

Shape white(Shape shape) {
  shape.alpha = 255;
  std::fill_n(shape.color, 3, uint8_t(255));
  return shape;
}

int red(const Tensor& pixels, int64_t x, int64_t y) { return int(pixels.data()[(y * pixels.dim(1) + x) * 3]); }

}  // namespace

TEST_CASE("a rendered pixel is as bright as the part of it that the shape covers") {
  ThreadPool pool(1);
  std::mt19937 random(5);
  constexpr int kSide = 24, kScale = 2, kGrid = 16;
  constexpr double kStep = double(kUnitsPerPixel) / kScale / kGrid;
  for (int i = 0; i < kKinds * 6; ++i) {
    Shape shape = white(random_shape(Kind(i % kKinds), kSide, random));
    Tensor pixels = render(canvas(kSide, {shape}), kSide * kScale, kSide * kScale, pool);
    double sum = 0;
    int wrong = 0;
    for (int64_t y = 0; y < kSide * kScale; ++y)
      for (int64_t x = 0; x < kSide * kScale; ++x) {
        int hits = 0;
        for (int v = 0; v < kGrid; ++v)
          for (int u = 0; u < kGrid; ++u)
            hits += inside(shape, {(double(x) * kGrid + u + 0.5) * kStep, (double(y) * kGrid + v + 0.5) * kStep});
        double off = red(pixels, x, y) / 255.0 - double(hits) / (kGrid * kGrid);
        wrong += std::fabs(off) > 0.08;  // a grid of 16 x 16 places is itself up to 1/16 off
        sum += off;
      }
    CAPTURE(kind_name(shape.kind));
    CAPTURE(i);
    // Signed areas say less where an outline crosses itself within a pixel, and pieces of a stroke that lie over each other add
    // up at their edges.
    bool crossing = shape.kind == Kind::quadrilateral || shape.kind == Kind::polygon;
    bool overlapping = shape.kind == Kind::polyline;
    CHECK(wrong <= (overlapping ? 30 : crossing ? 12 : shape.kind == Kind::bezier ? 3 : 0));  // of 2,304 pixels
    CHECK(std::fabs(sum) < (overlapping ? 8 : 2.5));
  }
}

TEST_CASE("away from edges a picture of the compute size is what the search drew, to the last bit") {
  ThreadPool pool(2);
  Result result = random_result(96, 64, 3, 7);
  for (const Step& step : result.steps) {
    Result one = result;
    one.steps = {step};
    Tensor smooth = render(one, 96, 64, pool);
    Pixels hard = draw(one);
    int same = 0, edge = 0;
    for (size_t i = 0; i < hard.rgb.size(); ++i) {
      int got = int(smooth.data()[i]), fill = result.fill[i % 3], full = hard.rgb[i];
      if (got == full)
        ++same;
      else
        ++edge;
      Shape s = step.shape;
      int drawn = (fill * (255 - s.alpha) + s.color[i % 3] * s.alpha + 127) / 255;
      REQUIRE(got >= std::min(fill, drawn));
      REQUIRE(got <= std::max(fill, drawn));
    }
    CAPTURE(kind_name(step.shape.kind));
    CHECK(edge < same / 4);
  }
}

TEST_CASE("pixels that a shape covers whole are blended as the search blends them, for every alpha and value") {
  ThreadPool pool(1);
  for (int alpha = 1; alpha <= 255; ++alpha) {
    Result r = canvas(64, {});
    Shape ramp;
    ramp.kind = Kind::rectangle;
    ramp.count = 2;
    for (int i = 0; i < 64; ++i) {  // columns of 64 values, then a shape over all of them
      ramp.points[0] = {i * 16, 0};
      ramp.points[1] = {i * 16 + 16, 64 * 16};
      for (int c = 0; c < 3; ++c) ramp.color[c] = uint8_t((i * 4 + c + alpha) & 255);
      r.steps.push_back({ramp, 0});
    }
    ramp.points[0] = {0, 0};
    ramp.points[1] = {64 * 16, 64 * 16};
    ramp.alpha = uint8_t(alpha);
    for (int c = 0; c < 3; ++c) ramp.color[c] = uint8_t((alpha * 97 + c * 50) & 255);
    r.steps.push_back({ramp, 0});
    Tensor got = render(r, 64, 64, pool);
    Pixels expected = draw(r);
    REQUIRE(std::memcmp(got.data(), expected.rgb.data(), expected.rgb.size()) == 0);
  }
}

TEST_CASE("the number of threads and the steps of drawing do not change a picture") {
  Result result = random_result(80, 50, 60, 3);
  ThreadPool one(1), many(4);
  Tensor whole = render(result, 333, 201, one), same = render(result, 333, 201, many);
  CHECK(std::memcmp(whole.data(), same.data(), size_t(whole.bytes())) == 0);
  Renderer renderer(result, 333, 201, many);
  std::span<const Step> steps = result.steps;
  for (size_t i = 0; i < steps.size(); i += 7) renderer.draw(steps.subspan(i, std::min<size_t>(7, steps.size() - i)));
  CHECK(std::memcmp(whole.data(), renderer.pixels().data(), size_t(whole.bytes())) == 0);
}

TEST_CASE("what lies outside of the picture does not change what lies inside") {
  ThreadPool pool(1);
  std::mt19937 random(11);
  constexpr int kSide = 64, kShift = 24;  // the small picture is the middle of the large one
  for (int i = 0; i < kKinds * 8; ++i) {
    Shape shape = white(random_shape(Kind(i % kKinds), kSide, random)), moved = shape;
    bool centred = shape.count == 2 && !is_stroke(shape.kind) && shape.kind != Kind::rectangle;
    for (int p = 0; p < (centred ? 1 : shape.count); ++p) {
      moved.points[p].x += kShift * kUnitsPerPixel;
      moved.points[p].y += kShift * kUnitsPerPixel;
    }
    Tensor small = render(canvas(kSide, {shape}), kSide, kSide, pool);
    Tensor large = render(canvas(kSide + 2 * kShift, {moved}), kSide + 2 * kShift, kSide + 2 * kShift, pool);
    int worst = 0;
    for (int y = 0; y < kSide; ++y)
      for (int x = 0; x < kSide; ++x) worst = std::max(worst, std::abs(red(small, x, y) - red(large, x + kShift, y + kShift)));
    CAPTURE(kind_name(shape.kind));
    CHECK(worst <= (is_stroke(shape.kind) ? 4 : 1));  // many small pieces are each cut at the border
  }
}

TEST_CASE("shapes at the limits of their coordinates are drawn, or lie outside") {
  ThreadPool pool(2);
  for (Kind kind : {Kind::triangle, Kind::quadrilateral, Kind::polyline, Kind::bezier, Kind::line}) {
    Shape s;
    s.kind = kind;
    s.count = kind == Kind::line ? 2 : kind == Kind::quadrilateral ? 4 : 3;
    s.width = is_stroke(kind) ? kWidthLimit : 0;
    const Point far[] = {{-kCoordinateLimit, -kCoordinateLimit},
                         {kCoordinateLimit, kCoordinateLimit},
                         {-kCoordinateLimit, kCoordinateLimit},
                         {kCoordinateLimit, -kCoordinateLimit}};
    std::copy_n(far, s.count, s.points);
    Tensor pixels = render(canvas(64, {white(s)}), 640, 640, pool);
    CAPTURE(kind_name(kind));
    if (kind == Kind::line) CHECK(red(pixels, 320, 320) == 255);
    if (kind == Kind::triangle) CHECK(red(pixels, 10, 630) == 255);
  }
}

TEST_CASE("a stroke of one point is a disc, and one that turns back has no gaps") {
  ThreadPool pool(1);
  Shape dot;
  dot.kind = Kind::line;
  dot.count = 2;
  dot.points[0] = dot.points[1] = {160, 160};
  dot.width = 160;
  Tensor pixels = render(canvas(20, {white(dot)}), 200, 200, pool);
  double sum = 0;
  for (int y = 0; y < 200; ++y)
    for (int x = 0; x < 200; ++x) sum += red(pixels, x, y) / 255.0;
  CHECK(sum == doctest::Approx(std::numbers::pi * 50 * 50).epsilon(0.001));

  Shape hairpin;
  hairpin.kind = Kind::bezier;
  hairpin.count = 3;
  hairpin.points[0] = {40, 160};
  hairpin.points[1] = {300, 161};
  hairpin.points[2] = {41, 162};
  hairpin.width = 60;
  pixels = render(canvas(20, {white(hairpin)}), 200, 200, pool);
  for (int x = 25; x < 105; ++x)
    for (int y = 85; y < 116; ++y) REQUIRE(red(pixels, x, y) == 255);
}
