#include <webp/decode.h>
#include <webp/demux.h>
#include <webp/encode.h>
#include <webp/mux.h>

#include <algorithm>
#include <memory>

#include "io/exif.h"
#include "io/image_codecs.h"

namespace sinter {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kExifMark = "Exif\0\0"sv;

const uint8_t* unsigned_bytes(const ImageSource& source) { return reinterpret_cast<const uint8_t*>(source.file.data()); }

const char* describe(VP8StatusCode status) {
  switch (status) {
    case VP8_STATUS_OUT_OF_MEMORY:
      return "no memory to read it";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
      return "it uses a feature that is not supported";
    case VP8_STATUS_NOT_ENOUGH_DATA:
      return "it is cut short";
    default:
      return "its data are damaged";
  }
}

Image from_rgba(const uint8_t* rgba, int64_t width, int64_t height, bool has_alpha) {
  Image out{Tensor(DType::f32, {height, width, 3}), has_alpha ? Tensor(DType::f32, {height, width}) : Tensor()};
  int64_t count = width * height;
  float* rgb = out.pixels.f32().data();
  for (int64_t i = 0; i < count; ++i) bytes_to_floats(rgba + 4 * i, rgb + 3 * i, 3);
  if (!has_alpha) return out;
  float* alpha = out.alpha.f32().data();
  for (int64_t i = 0; i < count; ++i) bytes_to_floats(rgba + 4 * i + 3, alpha + i, 1);
  return out;
}

/// The first frame, put on the animation's canvas.
Image decode_first_frame(const ImageSource& source, const WebPBitstreamFeatures& features) {
  WebPData data{unsigned_bytes(source), source.file.size()};
  std::unique_ptr<WebPAnimDecoder, void (*)(WebPAnimDecoder*)> decoder(WebPAnimDecoderNew(&data, nullptr), WebPAnimDecoderDelete);
  WebPAnimInfo info;
  uint8_t* pixels;
  int time;
  if (!decoder || !WebPAnimDecoderGetInfo(decoder.get(), &info)) source.broken("WebP", "its animation is damaged or cut short");
  source.check_size(info.canvas_width, info.canvas_height);
  if (!WebPAnimDecoderGetNext(decoder.get(), &pixels, &time)) source.broken("WebP", "its first frame is damaged or cut short");
  return from_rgba(pixels, info.canvas_width, info.canvas_height, features.has_alpha);
}

const char* describe(WebPEncodingError error) {
  switch (error) {
    case VP8_ENC_ERROR_OUT_OF_MEMORY:
    case VP8_ENC_ERROR_BITSTREAM_OUT_OF_MEMORY:
      return "no memory";
    case VP8_ENC_ERROR_BAD_DIMENSION:
      return "the size is out of range";
    case VP8_ENC_ERROR_PARTITION0_OVERFLOW:
    case VP8_ENC_ERROR_PARTITION_OVERFLOW:
    case VP8_ENC_ERROR_FILE_TOO_BIG:
      return "the file would be too large";
    default:
      return "the encoder failed";
  }
}

/// The file with an EXIF chunk, which needs the extended form of the container.
std::string with_exif(const std::string& file, const std::string& exif) {
  WebPData image{reinterpret_cast<const uint8_t*>(file.data()), file.size()};
  WebPData chunk{reinterpret_cast<const uint8_t*>(exif.data()), exif.size()}, assembled{};
  std::unique_ptr<WebPMux, void (*)(WebPMux*)> mux(WebPMuxCreate(&image, 0), WebPMuxDelete);
  bool done = mux && WebPMuxSetChunk(mux.get(), "EXIF", &chunk, 0) == WEBP_MUX_OK &&
              WebPMuxAssemble(mux.get(), &assembled) == WEBP_MUX_OK;
  std::string out = done ? std::string(reinterpret_cast<const char*>(assembled.bytes), assembled.size) : "";
  WebPDataClear(&assembled);
  if (!done) fail(Code::InvalidArgument, "the text for the picture ({} bytes) cannot be put into a WebP file", exif.size());
  return out;
}

}  // namespace

Image decode_webp(const ImageSource& source) {
  WebPDecoderConfig config;
  if (!WebPInitDecoderConfig(&config))
    fail(Code::Internal, "{}: the WebP library has another version than expected", source.name);
  VP8StatusCode status = WebPGetFeatures(unsigned_bytes(source), source.file.size(), &config.input);
  if (status != VP8_STATUS_OK) source.broken("WebP", describe(status));
  source.check_size(config.input.width, config.input.height);
  if (config.input.has_animation) return decode_first_frame(source, config.input);

  config.output.colorspace = MODE_RGBA;
  status = WebPDecode(unsigned_bytes(source), source.file.size(), &config);
  std::unique_ptr<WebPDecBuffer, void (*)(WebPDecBuffer*)> owned(&config.output, WebPFreeDecBuffer);
  if (status != VP8_STATUS_OK) source.broken("WebP", describe(status));
  SINTER_ASSERT(config.output.u.RGBA.stride == config.output.width * 4);
  return from_rgba(config.output.u.RGBA.rgba, config.output.width, config.output.height, config.input.has_alpha);
}

ImageExtras webp_extras(const ImageSource& source) {
  ImageExtras out;
  std::string_view file = source.text();
  for (size_t at = 12; at + 8 <= file.size();) {
    size_t length = little_endian(file, at + 4, 4);
    if (length > file.size() - at - 8) break;
    std::string_view data = file.substr(at + 8, length);
    out.animated = out.animated || file.substr(at, 4) == "ANIM";
    if (file.substr(at, 4) == "EXIF" && out.exif.empty())
      out.exif = data.substr(data.starts_with(kExifMark) ? kExifMark.size() : 0);
    at += 8 + length + length % 2;
  }
  return out;
}

std::string encode_webp(const Tensor& pixels, int quality, bool lossless, const ImageText& text) {
  if (quality < 1 || quality > 100) fail(Code::InvalidArgument, "WebP quality {}: expected 1 to 100", quality);
  Tensor stored = image_bytes(pixels);
  if (std::max(stored.dim(0), stored.dim(1)) > WEBP_MAX_DIMENSION)
    fail(Code::InvalidArgument, "a WebP has at most {} pixels a side, and this picture has {} x {}; write a PNG",
         WEBP_MAX_DIMENSION, stored.dim(1), stored.dim(0));
  std::string exif = build_exif(text);

  WebPConfig config;
  WebPPicture picture;
  constexpr int kLosslessEffort = 6;  // of 9: further levels take several times as long for about one percent
  bool ready = WebPConfigPreset(&config, WEBP_PRESET_DEFAULT, float(quality)) && WebPPictureInit(&picture) &&
               (!lossless || WebPConfigLosslessPreset(&config, kLosslessEffort));
  if (!ready) fail(Code::Internal, "the WebP library has another version than expected");
  std::unique_ptr<WebPPicture, void (*)(WebPPicture*)> owned(&picture, WebPPictureFree);
  picture.use_argb = lossless;
  picture.width = int(stored.dim(1));
  picture.height = int(stored.dim(0));
  WebPMemoryWriter memory;
  WebPMemoryWriterInit(&memory);
  std::unique_ptr<WebPMemoryWriter, void (*)(WebPMemoryWriter*)> owned_memory(&memory, WebPMemoryWriterClear);
  picture.writer = WebPMemoryWrite;
  picture.custom_ptr = &memory;
  bool done = WebPPictureImportRGB(&picture, reinterpret_cast<const uint8_t*>(stored.data()), picture.width * 3) &&
              WebPEncode(&config, &picture);
  if (!done) fail(Code::Internal, "the picture cannot be written as WebP: {}", describe(picture.error_code));
  std::string file(reinterpret_cast<const char*>(memory.mem), memory.size);
  return exif.empty() ? file : with_exif(file, exif);
}

}  // namespace sinter
