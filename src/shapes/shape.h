#pragma once
#include <stdint.h>

// What a shape is. This header and those that say so include nothing but each other and <stdint.h>, which a freestanding compiler
// has; they use integers alone and are compiled for GPUs as they stand.

namespace sinter::shapes {

enum class Kind : uint8_t {
#define SINTER_SHAPE_KIND(name) name,
#include "shapes/kinds.list"
#undef SINTER_SHAPE_KIND
};

constexpr int kKinds = 0
#define SINTER_SHAPE_KIND(name) +1
#include "shapes/kinds.list"
#undef SINTER_SHAPE_KIND
    ;

/// Coordinates, radii and widths are whole numbers of 1/16 pixel of the compute picture. Pixel (i, j) has its centre at
/// (16 i + 8, 16 j + 8); x grows to the right, y downwards.
constexpr int32_t kUnitsPerPixel = 16;
/// Points lie within +-kCoordinateLimit, half-axes and radii within 1..kRadiusLimit, widths within 1..kWidthLimit.
constexpr int32_t kCoordinateLimit = 1 << 17;
constexpr int32_t kRadiusLimit = 1 << 15;
constexpr int32_t kWidthLimit = 1 << 12;
/// An angle is a whole number of 1/65536 turn, 0..65535; it turns from the x axis towards the y axis (clockwise as seen).
constexpr uint32_t kTurn = 1 << 16;
constexpr int kMaxPoints = 6;

struct Point {
  int32_t x = 0, y = 0;
  friend constexpr bool operator==(const Point&, const Point&) = default;
};

/// One shape of one colour. What the fields mean:
///
/// | kind              | count | points                                                          | width  | angle |
/// | ----------------- | ----- | --------------------------------------------------------------- | ------ | ----- |
/// | triangle          | 3     | corners                                                         | -      | -     |
/// | rectangle         | 2     | two opposite corners, in any order                              | -      | -     |
/// | rotated_rectangle | 2     | centre; half lengths of the sides (along the angle, across it)  | -      | yes   |
/// | circle            | 2     | centre; radius in x (y has the same value)                      | -      | -     |
/// | ellipse           | 2     | centre; half-axes in x and y                                    | -      | -     |
/// | rotated_ellipse   | 2     | centre; half-axes (along the angle, across it)                  | -      | yes   |
/// | quadrilateral     | 4     | corners in order; may be concave or cross itself (even-odd)     | -      | -     |
/// | polygon           | 3..6  | corners in order; may be concave or cross itself (even-odd)     | -      | -     |
/// | line              | 2     | ends                                                            | stroke | -     |
/// | polyline          | 2..6  | the corners of the path, which stays open                       | stroke | -     |
/// | bezier            | 3     | start, control point and end of a quadratic curve               | stroke | -     |
///
/// A stroke covers what is at most half its width away from the path (round ends and joins). Unused fields are 0, so that equal
/// shapes compare equal.
struct Shape {
  Kind kind = Kind::triangle;
  uint8_t alpha = 255;  ///< opacity in 1/255, at least 1
  uint8_t color[3] = {};
  uint8_t count = 0;
  Point points[kMaxPoints];
  int32_t width = 0;
  uint32_t angle = 0;
  friend constexpr bool operator==(const Shape&, const Shape&) = default;
};
static_assert(sizeof(Shape) == 64);

/// A bit for each kind.
using KindSet = uint32_t;
constexpr KindSet kind_bit(Kind kind) { return KindSet(1) << int(kind); }
constexpr KindSet kAllKinds = (KindSet(1) << kKinds) - 1;
/// The kinds that primitive's "combo" draws from (its thin curve is our bezier), so that scores compare.
constexpr KindSet kMixedKinds = kind_bit(Kind::triangle) | kind_bit(Kind::rectangle) | kind_bit(Kind::rotated_rectangle) |
                                kind_bit(Kind::circle) | kind_bit(Kind::ellipse) | kind_bit(Kind::rotated_ellipse) |
                                kind_bit(Kind::quadrilateral) | kind_bit(Kind::bezier);

/// Kinds whose first point is the centre and whose second one holds sizes.
constexpr bool is_centred(Kind kind) {
  return kind == Kind::rotated_rectangle || kind == Kind::circle || kind == Kind::ellipse || kind == Kind::rotated_ellipse;
}
constexpr bool is_stroke(Kind kind) { return kind == Kind::line || kind == Kind::polyline || kind == Kind::bezier; }

}  // namespace sinter::shapes
