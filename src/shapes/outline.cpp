#include "shapes/outline.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/error.h"

namespace sinter::shapes {
namespace {

constexpr double kTolerance = 1.0 / 64;  // of a rendered pixel

/// A place in the compute picture, in its pixels.
struct Vector {
  double x = 0, y = 0;
};
Vector operator+(Vector a, Vector b) { return {a.x + b.x, a.y + b.y}; }
Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y}; }
Vector operator*(Vector a, double s) { return {a.x * s, a.y * s}; }
double dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y; }
double cross(Vector a, Vector b) { return a.x * b.y - a.y * b.x; }
double length(Vector a) { return std::hypot(a.x, a.y); }
Vector left_of(Vector direction) { return {direction.y, -direction.x}; }

Vector vector_of(Point p) { return Vector{double(p.x), double(p.y)} * (1.0 / kUnitsPerPixel); }
Vector direction_of(uint32_t angle) {
  double radians = double(angle) / kTurn * 2 * std::numbers::pi;
  return {std::cos(radians), std::sin(radians)};
}

/// How many chords keep an arc of `radians` within the tolerance, for a radius in rendered pixels.
int chords(double radius, double radians) {
  constexpr double kMost = 1 << 14;
  double step = std::sqrt(8 * kTolerance / std::max(radius, kTolerance));  // 1 - cos(step / 2) is about step^2 / 8
  return int(std::clamp(std::ceil(std::abs(radians) / step), 1.0, kMost));
}

class Builder {
 public:
  explicit Builder(const Magnification& magnification)
      : magnification_(magnification), largest_(std::max(magnification.x, magnification.y)) {}

  Outline finish() {
    if (out_.corners.empty()) return std::move(out_);
    auto [first, last] = std::ranges::minmax_element(out_.corners, {}, &Corner::y);
    out_.top = first->y;
    out_.bottom = last->y;
    return std::move(out_);
  }

  void polygon(const Shape& shape) {
    out_.even_odd = true;
    for (int i = 0; i < shape.count; ++i) add(vector_of(shape.points[i]));
    close();
  }

  void rectangle(const Shape& shape) {
    Vector a = vector_of(shape.points[0]), b = vector_of(shape.points[1]);
    for (Vector corner : {a, Vector{b.x, a.y}, b, Vector{a.x, b.y}}) add(corner);
    close();
  }

  void rotated_rectangle(const Shape& shape) {
    Vector centre = vector_of(shape.points[0]), half = vector_of(shape.points[1]), along = direction_of(shape.angle);
    Vector a = along * half.x, b = left_of(along) * half.y;
    for (Vector corner : {centre + a + b, centre + a - b, centre - a - b, centre - a + b}) add(corner);
    close();
  }

  void ellipse(const Shape& shape) {
    constexpr double kFullTurn = 2 * std::numbers::pi;
    Vector centre = vector_of(shape.points[0]), half = vector_of(shape.points[1]), along = direction_of(shape.angle);
    int count = std::max(8, chords(std::max(half.x, half.y) * largest_, kFullTurn));
    // Corners lie a little outside, so that the polygon has the area of the ellipse.
    double step = kFullTurn / count, grow = std::sqrt(step / std::sin(step));
    for (int i = 0; i < count; ++i)
      add(centre + along * (half.x * grow * std::cos(step * i)) - left_of(along) * (half.y * grow * std::sin(step * i)));
    close();
  }

  void stroke(const Shape& shape) {
    half_width_ = double(shape.width) / (2 * kUnitsPerPixel);
    std::vector<Vector> path;
    auto extend = [&](Vector p) {
      if (path.empty() || length(p - path.back()) > 0) path.push_back(p);
    };
    if (shape.kind == Kind::bezier) {
      Vector a = vector_of(shape.points[0]), b = vector_of(shape.points[1]), c = vector_of(shape.points[2]);
      int pieces = curve_pieces(length(a - b * 2 + c));
      for (int i = 0; i <= pieces; ++i) {
        double t = double(i) / pieces, s = 1 - t;
        extend(i == 0 ? a : i == pieces ? c : a * (s * s) + b * (2 * s * t) + c * (t * t));
      }
    } else {
      for (int i = 0; i < shape.count; ++i) extend(vector_of(shape.points[i]));
    }
    stroke_path(path);
  }

 private:
  void add(Vector p) {
    constexpr double kOne = 1 << kCornerBits;
    out_.corners.push_back({std::llround(p.x * magnification_.x * kOne), std::llround(p.y * magnification_.y * kOne)});
  }
  void close() { out_.ends.push_back(uint32_t(out_.corners.size())); }

  void triangle(Vector a, Vector b, Vector c) {
    size_t first = out_.corners.size();
    for (Vector p : {a, b, c}) add(p);
    Corner *p = &out_.corners[first], *q = p + 1, *r = p + 2;
    int64_t area = (q->x - p->x) * (r->y - p->y) - (q->y - p->y) * (r->x - p->x);
    if (area == 0) return out_.corners.resize(first);
    if (area < 0) std::swap(*q, *r);
    close();
  }

  /// Pieces of a quadratic curve whose chords are within the tolerance; `bend` is |a - 2b + c|.
  int curve_pieces(double bend) const {
    constexpr double kFewest = 4, kMost = 1024;
    double pieces = std::sqrt((bend + half_width_) * largest_ / (4 * kTolerance));
    return int(std::clamp(std::ceil(pieces), kFewest, kMost));
  }

  /// The part of the disc around `centre` from `from` (of the stroke's half width) on, over `radians`, ending at `to`.
  void fan(Vector centre, Vector from, Vector to, double radians) {
    int count = chords(half_width_ * largest_, radians);
    Vector last = from;
    for (int i = 1; i <= count; ++i) {
      double angle = radians * i / count, c = std::cos(angle), s = std::sin(angle);
      Vector next = i == count ? to : Vector{from.x * c - from.y * s, from.x * s + from.y * c};
      triangle(centre, centre + last, centre + next);
      last = next;
    }
  }

  void stroke_path(const std::vector<Vector>& path) {
    Vector up{0, -half_width_};
    if (path.size() < 2) {
      fan(path[0], up, up * -1, std::numbers::pi);
      fan(path[0], up * -1, up, std::numbers::pi);
      return;
    }
    size_t pieces = path.size() - 1;
    std::vector<Vector> normals(pieces);  // of half the width, to the left of each piece
    for (size_t i = 0; i < pieces; ++i) {
      Vector step = path[i + 1] - path[i];
      normals[i] = left_of(step * (half_width_ / length(step)));
    }
    fan(path[0], normals[0] * -1, normals[0], std::numbers::pi);
    Vector start = normals[0];
    for (size_t i = 0; i < pieces; ++i) {
      bool last = i + 1 == pieces;
      Vector end = normals[i], next = end;
      if (!last) join(path[i + 1], normals[i], normals[i + 1], end, next);
      for (double side : {1.0, -1.0}) {
        triangle(path[i], path[i + 1], path[i + 1] + end * side);
        triangle(path[i], path[i + 1] + end * side, path[i] + start * side);
      }
      start = next;
    }
    fan(path[pieces], normals.back(), normals.back() * -1, std::numbers::pi);
  }

  /// Where two pieces meet: both end in one mitre where its tip is within the tolerance of the round join, which is so all along
  /// a curve; else each ends square and a fan fills the outer side.
  void join(Vector centre, Vector before, Vector after, Vector& end, Vector& next) {
    double square = half_width_ * half_width_, cosine = std::clamp(dot(before, after) / square, -1.0, 1.0);
    double half_cosine = std::sqrt((1 + cosine) / 2);  // of half the turn
    if (half_width_ * largest_ * (1 - half_cosine) <= kTolerance * half_cosine) {
      end = next = (before + after) * (1 / (2 * half_cosine * half_cosine));
      return;
    }
    end = before;
    next = after;
    double turn = std::acos(cosine);
    if (cross(before, after) >= 0)  // to the right as y grows downwards: the left side is the outer one
      fan(centre, before, after, turn);
    else
      fan(centre, before * -1, after * -1, -turn);
  }

  Magnification magnification_;
  double largest_, half_width_ = 0;
  Outline out_;
};

}  // namespace

Outline outline_of(const Shape& shape, const Magnification& magnification) {
  Builder builder(magnification);
  switch (shape.kind) {
    case Kind::triangle:
    case Kind::quadrilateral:
    case Kind::polygon:
      builder.polygon(shape);
      break;
    case Kind::rectangle:
      builder.rectangle(shape);
      break;
    case Kind::rotated_rectangle:
      builder.rotated_rectangle(shape);
      break;
    case Kind::circle:
    case Kind::ellipse:
    case Kind::rotated_ellipse:
      builder.ellipse(shape);
      break;
    case Kind::line:
    case Kind::polyline:
    case Kind::bezier:
      builder.stroke(shape);
      break;
  }
  return builder.finish();
}

}  // namespace sinter::shapes
