#pragma once
#include <vector>

#include "io/image.h"
#include "shapes/integers.h"
#include "shapes/random.h"
#include "shapes/shapes.h"

// What the tests of this folder share.

namespace sinter::shapes {

/// A smooth background, discs and fine stripes, from integers alone.
inline Pixels test_pixels(int width, int height) {
  Pixels p{width, height, {}};
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) {
      int dx = 3 * x - width, dy = 2 * y - height;
      bool disc = dx * dx + dy * dy < width * height / 3, stripe = (x + 2 * y) / 5 % 2 != 0 && 2 * x > width;
      p.rgb.push_back(uint8_t(x * 255 / width));
      p.rgb.push_back(uint8_t(disc ? 220 : y * 120 / height));
      p.rgb.push_back(uint8_t(stripe ? 200 : 40));
    }
  return p;
}

inline Image image_of(const Pixels& pixels) {
  Image image{Tensor(DType::f32, {pixels.height, pixels.width, 3}), {}};
  for (size_t i = 0; i < pixels.rgb.size(); ++i) image.pixels.f32()[i] = float(pixels.rgb[i]) / 255.0f;
  return image;
}

inline Image test_image(int width = 96, int height = 64) { return image_of(test_pixels(width, height)); }

/// A shape of any kind and size: mostly near a picture of the given size, now and then far outside, huge, tiny, degenerate or
/// with corners exactly on pixel centres.
inline Shape wild_shape(Random& random, Kind kind, int width, int height) {
  Shape s;
  s.kind = kind;
  const int flavour = int(random.below(8));
  auto coordinate = [&](int side) {
    if (flavour == 0) return random.between(-kCoordinateLimit, kCoordinateLimit);
    int32_t value = random.between(-side * 8, side * 24);
    return flavour == 1 ? value / 8 * 8 : value;
  };
  auto size = [&](int32_t limit) {
    if (flavour == 0) return random.between(1, limit);
    return random.between(1, flavour == 2 ? 12 : smaller(limit, larger(width, height) * 12));
  };
  switch (kind) {
    case Kind::triangle:
    case Kind::bezier:
      s.count = 3;
      break;
    case Kind::quadrilateral:
      s.count = 4;
      break;
    case Kind::polygon:
      s.count = uint8_t(random.between(3, kMaxPoints));
      break;
    case Kind::polyline:
      s.count = uint8_t(random.between(2, kMaxPoints));
      break;
    default:
      s.count = 2;
  }
  for (int i = 0; i < s.count; ++i) s.points[i] = {coordinate(width), coordinate(height)};
  if (flavour == 3) s.points[s.count - 1] = s.points[0];
  if (flavour == 4) s.points[1].y = s.points[0].y;
  if (flavour == 5) s.points[1].x = s.points[0].x;
  if (is_centred(kind)) s.points[1] = {size(kRadiusLimit), size(kRadiusLimit)};
  if (kind == Kind::circle) s.points[1].y = s.points[1].x;
  if (is_stroke(kind)) s.width = flavour == 6 ? random.between(1, 8) : size(kWidthLimit);
  if (kind == Kind::rotated_rectangle || kind == Kind::rotated_ellipse) s.angle = random.below(kTurn);
  return s;
}

}  // namespace sinter::shapes
