#pragma once
#include <cstdint>
#include <random>

#include "shapes/shapes.h"

namespace sinter::shapes {

/// A shape of this kind in a picture of `side` pixels; a part of it may lie outside.
inline Shape random_shape(Kind kind, int side, std::mt19937& random) {
  auto number = [&](int low, int high) { return low + int(random() % uint32_t(high - low + 1)); };
  const int units = side * kUnitsPerPixel;
  Shape s;
  s.kind = kind;
  s.alpha = uint8_t(number(60, 255));
  for (uint8_t& c : s.color) c = uint8_t(number(0, 255));
  bool round = kind == Kind::circle || kind == Kind::ellipse || kind == Kind::rotated_ellipse;
  bool centred = round || kind == Kind::rotated_rectangle;
  s.count = uint8_t(kind == Kind::quadrilateral                       ? 4
                    : kind == Kind::polygon || kind == Kind::polyline ? number(3, kMaxPoints)
                    : kind == Kind::triangle || kind == Kind::bezier  ? 3
                                                                      : 2);
  for (int i = 0; i < s.count; ++i) s.points[i] = {number(-units / 8, units + units / 8), number(-units / 8, units + units / 8)};
  if (centred) s.points[1] = {number(1, units / 3), number(1, units / 3)};
  if (kind == Kind::circle) s.points[1].y = s.points[1].x;
  if (kind == Kind::rotated_rectangle || kind == Kind::rotated_ellipse) s.angle = uint32_t(number(0, kTurn - 1));
  if (is_stroke(kind)) s.width = number(1, units / 6);
  return s;
}

/// A result with `each` random shapes of every kind, whose errors are those of a search for black.
inline Result random_result(int width, int height, int each, uint32_t seed) {
  std::mt19937 random(seed);
  Result r;
  r.width = r.source_width = width;
  r.height = r.source_height = height;
  r.fill = {200, 150, 100};
  r.start_error = uint64_t(width) * uint64_t(height) * 72500;
  uint64_t error = r.start_error;
  for (int i = 0; i < each * kKinds; ++i)
    r.steps.push_back({random_shape(Kind(i % kKinds), std::max(width, height), random), error -= 7});
  r.candidates = 12345;
  return r;
}

}  // namespace sinter::shapes
