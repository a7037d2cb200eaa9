#pragma once
#include <stdint.h>

#include "shapes/integers.h"
#include "shapes/random.h"
#include "shapes/shape.h"

// Random shapes and random changes of shapes. All sizes are relative to the picture or to the shape, so that a search behaves
// alike at every compute size. Compiled for GPUs as it stands.

namespace sinter::shapes {

/// What random shapes depend on besides the random numbers.
struct Scene {
  int32_t width = 0, height = 0;  ///< of the picture, in pixels
  KindSet kinds = kAllKinds;
  int32_t typical = 0;             ///< half the extent of the shapes that were found lately, in units
  int32_t cell = 1;                ///< pixels along the side of a cell of the map below
  int32_t columns = 0, cells = 0;  ///< of the map
  const uint32_t* map = nullptr;   ///< running sums of the cells' errors, scaled so that they fit
};

namespace detail {

/// Calls body(i) for i in 0..count - 1, at most kMaxPoints. On GPUs every i is a constant in the code: an index that is not
/// would put a shape's points into memory.
template <class Body>
constexpr void for_points(int count, Body&& body) {
#if defined(__NVPTX__)
  SINTER_UNROLL_LOOP
  for (int i = 0; i < kMaxPoints; ++i)
    if (i < count) body(i);
#else
  for (int i = 0; i < count; ++i) body(i);
#endif
}
constexpr void set_point(Shape& s, int which, Point point) {
#if defined(__NVPTX__)
  SINTER_UNROLL_LOOP
  for (int i = 0; i < kMaxPoints; ++i) s.points[i] = i == which ? point : s.points[i];
#else
  s.points[which] = point;
#endif
}
constexpr void move_point(Shape& s, int which, int32_t x, int32_t y) {
#if defined(__NVPTX__)
  SINTER_UNROLL_LOOP
  for (int i = 0; i < kMaxPoints; ++i) s.points[i].x += i == which ? x : 0, s.points[i].y += i == which ? y : 0;
#else
  s.points[which].x += x, s.points[which].y += y;
#endif
}

}  // namespace detail

constexpr int32_t longer_side(const Scene& scene) { return larger(scene.width, scene.height) * kUnitsPerPixel; }

/// Half of the longer side of the box around a shape's points, in units, at least half a pixel.
constexpr int32_t extent(const Shape& s) {
  int32_t result = kUnitsPerPixel / 2;
  if (is_centred(s.kind)) return larger(result, larger(s.points[1].x, s.points[1].y));
  int32_t left = s.points[0].x, right = left, top = s.points[0].y, bottom = top;
  detail::for_points(s.count, [&](int i) {
    left = smaller(left, s.points[i].x), right = larger(right, s.points[i].x);
    top = smaller(top, s.points[i].y), bottom = larger(bottom, s.points[i].y);
  });
  return larger(result, larger(right - left, bottom - top) / 2);
}

/// The size that the next shape will probably have: the mean of the last ones'. It follows from the shapes alone, so that
/// resuming a result goes on as if it had never been interrupted.
class RecentSizes {
 public:
  constexpr void add(const Shape& s) {
    extents_[count_ % kLooksBack] = extent(s);
    // Counted only as far as it matters, so that it never wraps.
    count_ = count_ + 1 < 2 * kLooksBack ? count_ + 1 : kLooksBack;
  }
  /// For Scene::typical.
  constexpr int32_t typical(const Scene& scene) const {
    int64_t sum = 0;
    const int32_t known = smaller(count_, kLooksBack);
    for (int i = 0; i < known; ++i) sum += extents_[i];
    // Few shapes say little: the picture's half counts for the missing ones.
    sum += int64_t(kLooksBack - known) * (longer_side(scene) / 4);
    return int32_t(larger<int64_t>(sum / kLooksBack, kUnitsPerPixel));
  }

 private:
  static constexpr int32_t kLooksBack = 16;
  int32_t extents_[kLooksBack] = {};
  int32_t count_ = 0;
};

namespace detail {

constexpr Kind random_kind(Random& random, KindSet kinds) {
  int count = 0;
  for (KindSet rest = kinds; rest != 0; rest &= rest - 1) ++count;
  int wanted = int(random.below(uint32_t(count))), kind = 0;
  for (;; ++kind)
    if ((kinds >> kind & 1) && wanted-- == 0) return Kind(kind);
}

/// low to high with every octave as likely (a straight line inside an octave).
constexpr int32_t random_octave(Random& random, int32_t low, int32_t high) {
  if (high <= low) return low;
  int32_t octaves = 0;
  while ((low << (octaves + 1)) <= high) ++octaves;
  uint32_t rest = uint32_t((int64_t(high) << 16) / (int64_t(low) << octaves)) - 65536;  // of the last octave, in 1/65536
  uint32_t t = random.below((uint32_t(octaves) << 16) + rest + 1);
  return int32_t(((int64_t(low) << (t >> 16)) * (65536 + int64_t(t & 65535))) >> 16);
}

/// A point of the picture: seven times in eight where the error is large.
constexpr Point random_place(Random& random, const Scene& scene) {
  int32_t units_x = scene.width * kUnitsPerPixel, units_y = scene.height * kUnitsPerPixel;
  if (scene.cells == 0 || random.below(8) == 0) return {random.between(0, units_x - 1), random.between(0, units_y - 1)};
  uint32_t wanted = random.below(scene.map[scene.cells - 1]);
  int32_t low = 0, high = scene.cells - 1;  // the first cell whose sum is more than wanted
  while (low < high) {
    int32_t middle = (low + high) / 2;
    if (scene.map[middle] > wanted)
      high = middle;
    else
      low = middle + 1;
  }
  int32_t side = scene.cell * kUnitsPerPixel;
  int32_t x = low % scene.columns * side, y = low / scene.columns * side;
  return {random.between(x, smaller(x + side, units_x) - 1), random.between(y, smaller(y + side, units_y) - 1)};
}

constexpr Point kept_near(Point p, const Scene& scene) {
  int32_t margin = longer_side(scene) / 8;
  return {clamped(p.x, -margin, scene.width * kUnitsPerPixel + margin),
          clamped(p.y, -margin, scene.height * kUnitsPerPixel + margin)};
}

constexpr Point moved(Point p, Random& random, int32_t way) {
  return {p.x + random.between(-way, way), p.y + random.between(-way, way)};
}

constexpr int32_t kept_half_axis(int32_t value, const Scene& scene) {
  return clamped(value, kUnitsPerPixel / 4, smaller(longer_side(scene), kRadiusLimit));
}
constexpr int32_t kept_width(int32_t value, const Scene& scene) {
  return clamped(value, kUnitsPerPixel / 2, smaller(larger(longer_side(scene) / 16, kUnitsPerPixel), kWidthLimit));
}

/// The shape with all points inside the neighbourhood of the picture and all sizes in their ranges.
SINTER_INLINE_ON_GPU constexpr void keep_near(Shape& s, const Scene& scene) {
  for_points(is_centred(s.kind) ? 1 : int(s.count), [&](int i) { s.points[i] = kept_near(s.points[i], scene); });
  if (is_centred(s.kind)) s.points[1] = {kept_half_axis(s.points[1].x, scene), kept_half_axis(s.points[1].y, scene)};
  if (s.kind == Kind::circle) s.points[1].y = s.points[1].x;
  if (is_stroke(s.kind)) s.width = kept_width(s.width, scene);
}

}  // namespace detail

constexpr Shape random_shape(Random& random, const Scene& scene) {
  using namespace detail;
  Shape s;
  s.kind = random_kind(random, scene.kinds);
  const Point centre = random_place(random, scene);
  const int32_t longest = larger(longer_side(scene) / 2, kUnitsPerPixel);
  const int32_t size = random_octave(random, clamped(scene.typical / 4, kUnitsPerPixel, longest),
                                     clamped(scene.typical * 2, kUnitsPerPixel, longest));
  switch (s.kind) {
    case Kind::triangle:
      s.count = 3;
      for (int i = 0; i < 3; ++i) s.points[i] = moved(centre, random, size);
      break;
    case Kind::rectangle: {
      s.count = 2;
      int32_t x = random.between(size / 8, size), y = random.between(size / 8, size);
      s.points[0] = {centre.x - x, centre.y - y};
      s.points[1] = {centre.x + x, centre.y + y};
      break;
    }
    case Kind::circle:
      s.count = 2;
      s.points[0] = centre;
      s.points[1] = {size, size};
      break;
    case Kind::rotated_rectangle:
    case Kind::ellipse:
    case Kind::rotated_ellipse:
      s.count = 2;
      s.points[0] = centre;
      s.points[1].x = random.between(size / 8, size);
      s.points[1].y = random.between(size / 8, size);
      if (s.kind != Kind::ellipse) s.angle = random.below(kTurn / 2);
      break;
    case Kind::quadrilateral:
      s.count = 4;
      for (int i = 0; i < 4; ++i) {
        int32_t x = random.between(0, size), y = random.between(0, size);
        s.points[i] = {centre.x + (i == 0 || i == 3 ? -x : x), centre.y + (i < 2 ? -y : y)};
      }
      break;
    case Kind::polygon: {
      s.count = uint8_t(random.between(5, kMaxPoints));
      uint32_t start = random.below(kTurn);
      for (int i = 0; i < s.count; ++i) {
        uint32_t angle = start + uint32_t(i) * kTurn / s.count;
        int64_t radius = random.between(size / 4, size);
        set_point(
            s, i,
            {centre.x + int32_t(radius * cosine(angle) >> kSineBits), centre.y + int32_t(radius * sine(angle) >> kSineBits)});
      }
      break;
    }
    case Kind::line:
    case Kind::bezier:
    case Kind::polyline:
      s.count = s.kind == Kind::line ? 2 : s.kind == Kind::bezier ? 3 : 4;
      for (int i = 0; i < s.count; ++i) set_point(s, i, moved(centre, random, size));
      s.width = random_octave(random, kUnitsPerPixel, larger(size / 4, kUnitsPerPixel));
      break;
  }
  keep_near(s, scene);
  return s;
}

/// One random change. Steps are of every size from the shape's own down to a pixel.
SINTER_INLINE_ON_GPU constexpr void mutate(Shape& s, Random& random, const Scene& scene) {
  using namespace detail;
  const int32_t size = extent(s);
  const int32_t way = larger(size >> random.below(5), kUnitsPerPixel);
  const uint32_t choice = random.below(16);
  switch (s.kind) {
    case Kind::triangle:
    case Kind::quadrilateral:
    case Kind::polygon:
    case Kind::line:
    case Kind::polyline:
    case Kind::bezier:
      if (choice == 0) {
        int32_t x = random.between(-way, way), y = random.between(-way, way);
        for_points(s.count, [&](int i) { s.points[i] = {s.points[i].x + x, s.points[i].y + y}; });
      } else if (is_stroke(s.kind) && choice < 4) {
        int32_t step = larger(smaller(way, s.width) / 2, 2);
        s.width += random.between(-step, step);
      } else {
        const int which = int(random.below(s.count));
        const Point by = moved({}, random, way);
        move_point(s, which, by.x, by.y);
      }
      break;
    case Kind::rectangle: {
      int32_t step = random.between(-way, way);
      if (choice < 4) {
        int32_t other = random.between(-way, way);
        for (int i = 0; i < 2; ++i) s.points[i] = {s.points[i].x + step, s.points[i].y + other};
      } else {
        const bool sideways = choice & 2;
        move_point(s, choice & 1, sideways ? step : 0, sideways ? 0 : step);
      }
      break;
    }
    case Kind::circle:
      if (choice < 8)
        s.points[0] = moved(s.points[0], random, way);
      else
        s.points[1].x += random.between(-way, way);
      break;
    case Kind::ellipse:
    case Kind::rotated_ellipse:
    case Kind::rotated_rectangle:
      if (choice < 6) {
        s.points[0] = moved(s.points[0], random, way);
      } else if (choice < 12 || s.kind == Kind::ellipse) {
        const bool across = choice & 1;
        const int32_t step = random.between(-way, way);
        s.points[1].x += across ? step : 0, s.points[1].y += across ? 0 : step;
      } else {
        int32_t turn = int32_t(kTurn / 8) >> random.below(5);
        s.angle = (s.angle + uint32_t(random.between(-turn, turn))) & (kTurn - 1);
      }
      break;
  }
  keep_near(s, scene);
}

}  // namespace sinter::shapes
