#pragma once
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace sinter {

enum class ImageFormat { Png, Jpeg, WebP };

/// Texts that a picture file carries, key and UTF-8 value, in the order of the file. A PNG holds any keys. JPEG and WebP hold
/// them as EXIF: "parameters" as the UserComment, and up to four others as "key:value" in the tags 0x0110, 0x010f, 0x010e,
/// 0x010d.
using ImageText = std::vector<std::pair<std::string, std::string>>;

/// Larger pictures are refused before anything is allocated for them.
struct ImageLimits {
  int64_t side = 16384;
  int64_t pixels = 512'000'000;
};

struct Image {
  Tensor pixels;          ///< f32 [height, width, 3], 0..1: the stored values, not multiplied with alpha
  Tensor alpha;           ///< f32 [height, width], 0..1, 1 is opaque; empty() where the file has none
  bool animated = false;  ///< the file holds more frames than this one
};

/// Recognised by content, never by name; none where it is none of them.
std::optional<ImageFormat> image_format(std::span<const std::byte> file);

/// Reads PNG (any bit depth and colour type), JPEG (also grey and CMYK) or WebP (of an animation the first frame), turned upright
/// as its EXIF orientation says. `name` is used in messages only. Code::Unsupported for other formats and sizes over the limits,
/// Code::Corrupt for files that are broken or cut short.
Image decode_image(std::span<const std::byte> file, std::string_view name, const ImageLimits& limits = {});
Image read_image(const std::filesystem::path& path, const ImageLimits& limits = {});

/// The texts inside a picture file, without decoding the picture.
ImageText image_text(std::span<const std::byte> file, std::string_view name);
ImageText read_image_text(const std::filesystem::path& path);

/// What is stored for a picture: u8 [height, width, 3]. f32 values become 255 * x, clamped and cut to whole numbers, as the
/// reference does; u8 stays. Code::InvalidArgument for other shapes and types.
Tensor image_bytes(const Tensor& pixels);

/// Text is Latin-1 (tEXt) where that can hold it, UTF-8 (iTXt) otherwise. Code::InvalidArgument for keys that PNG does not allow.
std::string encode_png(const Tensor& pixels, const ImageText& text = {});
/// `quality` 1 to 100. Code::InvalidArgument where the text does not fit the format.
std::string encode_jpeg(const Tensor& pixels, int quality = 90, const ImageText& text = {});
/// Without loss, `quality` is ignored: every byte is kept.
std::string encode_webp(const Tensor& pixels, int quality = 90, bool lossless = false, const ImageText& text = {});

struct ImageWriteOptions {
  int quality = 90;       ///< 1 to 100, for JPEG and lossy WebP
  bool lossless = false;  ///< for WebP
};

/// Writes .png, .jpg, .jpeg or .webp, as the name says; the file appears whole or not at all.
void write_image(const std::filesystem::path& path, const Tensor& pixels, const ImageText& text = {},
                 const ImageWriteOptions& options = {});

}  // namespace sinter
