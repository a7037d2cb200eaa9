#pragma once
#include <span>
#include <string>
#include <string_view>

#include "base/error.h"
#include "io/image.h"

namespace sinter {

/// A picture file that is being read.
struct ImageSource {
  std::span<const std::byte> file;
  std::string_view name;
  ImageLimits limits;

  std::string_view text() const { return {reinterpret_cast<const char*>(file.data()), file.size()}; }
  [[noreturn]] void broken(const char* format, std::string_view what) const {
    fail(Code::Corrupt, "{}: not a valid {} file: {}", name, format, what);
  }
  void check_size(int64_t width, int64_t height) const;
};

/// What the containers hold beside the picture: read without decoding it.
struct ImageExtras {
  std::string exif;  ///< from the TIFF header on; empty where there is none
  ImageText text;    ///< of the container itself, EXIF not included
  bool animated = false;
};

// Pixels as they are stored, without the EXIF orientation.
Image decode_png(const ImageSource& source);
Image decode_jpeg(const ImageSource& source);
Image decode_webp(const ImageSource& source);

ImageExtras png_extras(const ImageSource& source);
ImageExtras jpeg_extras(const ImageSource& source);
ImageExtras webp_extras(const ImageSource& source);

/// `count` stored values divided by the largest one, which makes white exactly 1.
void bytes_to_floats(const uint8_t* from, float* to, int64_t count);
/// Splits a row of `width` RGB or RGBA pixels; `alpha` is null for RGB.
void split_row(const uint8_t* row, int64_t width, float* rgb, float* alpha);

/// Bounds-checked reading of integers from foreign bytes.
inline uint32_t big_endian(std::string_view bytes, size_t at, int count) {
  uint32_t out = 0;
  for (int i = 0; i < count; ++i) out = out << 8 | uint8_t(bytes.at(at + size_t(i)));
  return out;
}
inline uint32_t little_endian(std::string_view bytes, size_t at, int count) {
  uint32_t out = 0;
  for (int i = count; i-- > 0;) out = out << 8 | uint8_t(bytes.at(at + size_t(i)));
  return out;
}

}  // namespace sinter
