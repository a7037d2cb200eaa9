#pragma once
#include <cstdint>
#include <vector>

#include "shapes/shape.h"

namespace sinter::shapes {

/// A point of a rendered picture in 1/256 of its pixels.
struct Corner {
  int64_t x = 0, y = 0;
};
constexpr int kCornerBits = 8;

/// How the compute picture lies on the rendered one: pixels of the latter for each of the former, across and down.
struct Magnification {
  double x = 1, y = 1;
};

/// A shape as closed polygons.
///
/// Curves become chords that are at most 1/64 pixel off. A stroke becomes triangles, all of one orientation: four for each piece
/// of its path, and fans of them for round joins and caps. Neighbours share edges, which cancel in a sum of signed areas, so
/// that the sum counts every point of the stroke at least once; where pieces overlap it counts more, and the renderer cuts at 1.
struct Outline {
  std::vector<Corner> corners;
  std::vector<uint32_t> ends;   ///< for each polygon the index behind its last corner
  bool even_odd = false;        ///< what an even number of turns surrounds is outside; else what any number surrounds is inside
  int64_t top = 0, bottom = 0;  ///< smallest and largest y; equal for an outline without area
};

Outline outline_of(const Shape& shape, const Magnification& magnification);

}  // namespace sinter::shapes
