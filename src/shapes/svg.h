#pragma once
#include <cstdint>
#include <string>

#include "shapes/shapes.h"

namespace sinter::shapes {

/// The result as an SVG picture of `width` x `height` pixels: a rectangle of the canvas' colour and one element for each shape,
/// in order. Its user units are the shapes' own, 1/16 pixel of the compute picture, so that most numbers are whole.
std::string svg(const Result& result, int64_t width, int64_t height);

}  // namespace sinter::shapes
