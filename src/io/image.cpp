#include "io/image.h"

#include <algorithm>
#include <array>

#include "base/file.h"
#include "io/exif.h"
#include "io/image_codecs.h"

namespace sinter {
namespace {

ImageExtras extras_of(const ImageSource& source, ImageFormat format) {
  switch (format) {
    case ImageFormat::Png:
      return png_extras(source);
    case ImageFormat::Jpeg:
      return jpeg_extras(source);
    case ImageFormat::WebP:
      return webp_extras(source);
  }
  SINTER_ASSERT(false);
}

Image pixels_of(const ImageSource& source, ImageFormat format) {
  switch (format) {
    case ImageFormat::Png:
      return decode_png(source);
    case ImageFormat::Jpeg:
      return decode_jpeg(source);
    case ImageFormat::WebP:
      return decode_webp(source);
  }
  SINTER_ASSERT(false);
}

ImageFormat recognised(const ImageSource& source) {
  if (source.file.empty()) fail(Code::Corrupt, "{}: not a picture: the file is empty", source.name);
  auto format = image_format(source.file);
  if (!format) fail(Code::Unsupported, "{}: not a picture that can be read: expected PNG, JPEG or WebP", source.name);
  return *format;
}

constexpr uint64_t kFileLimit = uint64_t(1) << 30;

std::span<const std::byte> as_bytes(const std::string& text) { return std::as_bytes(std::span(text.data(), text.size())); }

std::string encode(const std::string& extension, const Tensor& pixels, const ImageText& text, const ImageWriteOptions& options) {
  if (extension == ".png") return encode_png(pixels, text);
  if (extension == ".jpg" || extension == ".jpeg") return encode_jpeg(pixels, options.quality, text);
  if (extension == ".webp") return encode_webp(pixels, options.quality, options.lossless, text);
  fail(Code::InvalidArgument, "pictures are written as .png, .jpg, .jpeg or .webp, and the name ends in \"{}\"", extension);
}

}  // namespace

void ImageSource::check_size(int64_t width, int64_t height) const {
  if (width <= 0 || height <= 0) fail(Code::Corrupt, "{}: the picture is {} x {} pixels", name, width, height);
  if (width > limits.side || height > limits.side)
    fail(Code::Unsupported, "{}: the picture is {} x {} pixels, and at most {} a side are read", name, width, height,
         limits.side);
  if (width * height > limits.pixels)
    fail(Code::Unsupported, "{}: the picture has {} pixels, and at most {} are read", name, width * height, limits.pixels);
}

void bytes_to_floats(const uint8_t* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = float(from[i]) / 255.0f;
}

void split_row(const uint8_t* row, int64_t width, float* rgb, float* alpha) {
  if (!alpha) return bytes_to_floats(row, rgb, 3 * width);
  for (int64_t x = 0; x < width; ++x) {
    bytes_to_floats(row + 4 * x, rgb + 3 * x, 3);
    bytes_to_floats(row + 4 * x + 3, alpha + x, 1);
  }
}

std::optional<ImageFormat> image_format(std::span<const std::byte> file) {
  std::string_view text(reinterpret_cast<const char*>(file.data()), std::min<size_t>(file.size(), 12));
  if (text.starts_with("\x89PNG\r\n\x1a\n")) return ImageFormat::Png;
  if (text.starts_with("\xff\xd8\xff")) return ImageFormat::Jpeg;
  if (text.size() == 12 && text.starts_with("RIFF") && text.ends_with("WEBP")) return ImageFormat::WebP;
  return std::nullopt;
}

Image decode_image(std::span<const std::byte> file, std::string_view name, const ImageLimits& limits) {
  ImageSource source{file, name, limits};
  ImageFormat format = recognised(source);
  Image out = pixels_of(source, format);
  ImageExtras extras = extras_of(source, format);
  out.animated = extras.animated;
  int orientation = parse_exif(extras.exif).orientation;
  out.pixels = upright(out.pixels, orientation);
  if (!out.alpha.empty()) out.alpha = upright(out.alpha, orientation);
  return out;
}

Image read_image(const std::filesystem::path& path, const ImageLimits& limits) {
  std::string file = read_file(path, kFileLimit);
  return decode_image(as_bytes(file), path.string(), limits);
}

ImageText image_text(std::span<const std::byte> file, std::string_view name) {
  ImageSource source{file, name, {}};
  ImageExtras extras = extras_of(source, recognised(source));
  for (auto& pair : parse_exif(extras.exif).text) extras.text.push_back(pair);
  return extras.text;
}

ImageText read_image_text(const std::filesystem::path& path) {
  std::string file = read_file(path, kFileLimit);
  return image_text(as_bytes(file), path.string());
}

Tensor image_bytes(const Tensor& pixels) {
  bool good = pixels.rank() == 3 && pixels.dim(2) == 3 && pixels.count() > 0;
  good = good && (pixels.dtype() == DType::f32 || pixels.dtype() == DType::u8);
  if (!good)
    fail(Code::InvalidArgument, "a picture to write must be f32 or u8 [height, width, 3], and this is {} {}",
         sinter::name(pixels.dtype()), shape_text(pixels.shape()));
  if (pixels.dtype() == DType::u8) return pixels;
  Tensor out(DType::u8, pixels.shape());
  auto* to = reinterpret_cast<uint8_t*>(out.data());
  for (float value : pixels.f32()) {
    float scaled = 255.0f * value;
    *to++ = scaled > 0 ? uint8_t(std::min(scaled, 255.0f)) : 0;  // NaN is black
  }
  return out;
}

void write_image(const std::filesystem::path& path, const Tensor& pixels, const ImageText& text,
                 const ImageWriteOptions& options) {
  in_context(fmt::format("writing {}", path.string()), [&] {
    std::string extension = path.extension().string();
    for (char& c : extension) c = char(std::tolower(static_cast<unsigned char>(c)));
    write_atomically(path, encode(extension, pixels, text, options));
  });
}

}  // namespace sinter
