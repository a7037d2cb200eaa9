#pragma once
#include <string>
#include <string_view>

#include "io/image.h"

namespace sinter {

struct Exif {
  int orientation = 1;  ///< 1 to 8, as the EXIF standard numbers them; 1 is upright
  ImageText text;
};

/// Reads what we use of an EXIF block, from its TIFF header on. Whatever is broken is passed over: cameras write much that is.
Exif parse_exif(std::string_view tiff);

/// The block for these texts, from the TIFF header on; "" for none. Code::InvalidArgument where they are too many.
std::string build_exif(const ImageText& text);

/// Turns a [height, width, ...] tensor of f32 upright.
Tensor upright(const Tensor& picture, int orientation);

}  // namespace sinter
