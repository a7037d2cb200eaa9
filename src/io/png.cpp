#include <png.h>
#include <zlib.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "base/utf8.h"
#include "io/image_codecs.h"

namespace sinter {
namespace {

constexpr std::string_view kSignature = "\x89PNG\r\n\x1a\n";
constexpr size_t kKeyLimit = 79;
// Workflows are some hundred kilobytes; a compressed text of a few bytes can claim gigabytes.
constexpr size_t kTextLimit = size_t(64) << 20;
// What the reference writes with: nearly as small as 9, several times as fast.
constexpr int kCompression = 4;

struct Chunk {
  std::string_view type, data;
  bool intact = false;  // the checksum agrees
};

/// Calls visit(chunk) for every chunk up to the end mark.
template <class Visit>
void for_each_chunk(const ImageSource& source, Visit&& visit) {
  std::string_view file = source.text();
  size_t at = kSignature.size();
  for (;;) {
    if (file.size() < at || file.size() - at < 12) source.broken("PNG", "it is cut short");
    size_t length = big_endian(file, at, 4);
    if (length > file.size() - at - 12) source.broken("PNG", "it is cut short");
    Chunk chunk{file.substr(at + 4, 4), file.substr(at + 8, length)};
    auto* covered = reinterpret_cast<const Bytef*>(file.data()) + at + 4;
    chunk.intact = crc32(crc32(0, nullptr, 0), covered, uInt(length + 4)) == big_endian(file, at + 8 + length, 4);
    visit(chunk);
    if (chunk.type == "IEND") return;
    at += 12 + length;
  }
}

/// Empty if the text is broken. What was unpacked is taken off `left`, of broken texts too, for they cost as much; fails where
/// that is not enough.
std::string inflate_text(const ImageSource& source, std::string_view packed, size_t& left) {
  z_stream stream{};
  if (inflateInit(&stream) != Z_OK) fail(Code::OutOfMemory, "{}: no memory to unpack a text", source.name);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
  stream.avail_in = uInt(packed.size());
  std::string out;
  char piece[16384];
  int result = Z_OK;
  while (result == Z_OK && out.size() <= left) {
    stream.next_out = reinterpret_cast<Bytef*>(piece);
    stream.avail_out = sizeof piece;
    result = inflate(&stream, Z_NO_FLUSH);
    out.append(piece, sizeof piece - stream.avail_out);
  }
  inflateEnd(&stream);
  if (out.size() > left) fail(Code::Unsupported, "{}: the texts in it are larger than {} bytes", source.name, kTextLimit);
  left -= out.size();
  return result == Z_STREAM_END ? out : "";
}

/// The part of `rest` up to the next zero byte, which is taken off; nothing where there is none.
std::optional<std::string_view> take_until_zero(std::string_view& rest) {
  size_t zero = rest.find('\0');
  if (zero == std::string_view::npos) return std::nullopt;
  std::string_view out = rest.substr(0, zero);
  rest.remove_prefix(zero + 1);
  return out;
}

/// tEXt: key 0 text. zTXt: key 0 method packed. iTXt: key 0 flag method language 0 translated-key 0 text. comf is ComfyUI's tEXt.
void read_text_chunk(const ImageSource& source, const Chunk& chunk, size_t& left, ImageText& out) {
  std::string_view rest = chunk.data;
  auto key = take_until_zero(rest);
  if (!key || key->empty()) return;
  std::string value;
  if (chunk.type == "tEXt" || chunk.type == "comf") {
    value = latin1_to_utf8(rest);
  } else if (chunk.type == "zTXt") {
    if (rest.empty() || rest[0] != 0) return;
    value = latin1_to_utf8(inflate_text(source, rest.substr(1), left));
  } else {
    if (rest.size() < 2) return;
    bool packed = rest[0] == 1;
    rest.remove_prefix(2);
    if (!take_until_zero(rest) || !take_until_zero(rest)) return;
    value = packed ? inflate_text(source, rest, left) : std::string(rest);
    if (!is_utf8(value)) value = latin1_to_utf8(value);
  }
  out.emplace_back(latin1_to_utf8(*key), std::move(value));
}

bool is_text_chunk(std::string_view type) { return type == "tEXt" || type == "zTXt" || type == "iTXt" || type == "comf"; }

/// libpng reports errors by a long jump, which may pass C frames only: everything between run() and libpng has no destructors.
struct Png {
  png_structp png = nullptr;
  png_infop info = nullptr;
  jmp_buf jump;
  char message[256] = "";
  std::string_view input;
  size_t at = 0;
  std::string* output = nullptr;

  template <class Body>
  [[gnu::noinline]] bool run(const Body& body) {
    if (setjmp(jump)) return false;
    body();
    return true;
  }

  static void on_error(png_structp png, png_const_charp message) {
    auto* self = static_cast<Png*>(png_get_error_ptr(png));
    std::snprintf(self->message, sizeof self->message, "%s", message);
    longjmp(self->jump, 1);
  }
  static void on_warning(png_structp, png_const_charp) {}

  static void on_read(png_structp png, png_bytep to, size_t count) {
    auto* self = static_cast<Png*>(png_get_io_ptr(png));
    if (count > self->input.size() - self->at) png_error(png, "it is cut short");
    std::memcpy(to, self->input.data() + self->at, count);
    self->at += count;
  }

  static void on_write(png_structp png, png_bytep from, size_t count) {
    auto* self = static_cast<Png*>(png_get_io_ptr(png));
    bool stored = true;
    try {
      self->output->append(reinterpret_cast<const char*>(from), count);
    } catch (...) {
      stored = false;
    }
    if (!stored) png_error(png, "no memory");
  }
  static void on_flush(png_structp) {}
};

struct PngReader : Png {
  explicit PngReader(const ImageSource& source) {
    input = source.text();
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, static_cast<Png*>(this), on_error, on_warning);
    info = png ? png_create_info_struct(png) : nullptr;
    if (!info) fail(Code::OutOfMemory, "{}: no memory to read it", source.name);
    png_set_read_fn(png, static_cast<Png*>(this), on_read);
  }
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }

  /// Everything before the pixels. Texts and profiles are passed over: they are not used here, and may unpack to any size.
  void read_head() {
    static const char passed_over[] = "tEXt\0zTXt\0iTXt\0iCCP\0eXIf\0sPLT\0hIST";
    constexpr int count = sizeof passed_over / 5;
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);  // ours are checked with ours words
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, reinterpret_cast<png_const_bytep>(passed_over), count);
    png_read_info(png, info);
  }

  /// Makes every kind 8 or 16 bits of RGB or RGBA.
  void unify() {
    png_set_expand(png);
    png_set_gray_to_rgb(png);
    if (png_get_bit_depth(png, info) == 16) png_set_swap(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
  }
};

void words_to_floats(const uint8_t* row, int64_t width, float* rgb, float* alpha) {
  int channels = alpha ? 4 : 3;
  for (int64_t x = 0; x < width; ++x) {
    uint16_t pixel[4];
    std::memcpy(pixel, row + x * channels * 2, size_t(channels) * 2);
    for (int c = 0; c < 3; ++c) rgb[3 * x + c] = float(pixel[c]) / 65535.0f;
    if (alpha) alpha[x] = float(pixel[3]) / 65535.0f;
  }
}

/// Keys are what the standard allows, so that every reader takes the file.
std::string latin1_key(const std::string& key) {
  std::string out;
  bool good = is_utf8(key) && utf8_to_latin1(key, out) && !out.empty() && out.size() <= kKeyLimit;
  good = good && out.front() != ' ' && out.back() != ' ' && out.find("  ") == std::string::npos;
  good = good && std::all_of(out.begin(), out.end(), [](unsigned char c) { return (c >= 32 && c < 127) || c >= 161; });
  if (!good)
    fail(Code::InvalidArgument,
         "\"{}\" cannot be the key of a text in a PNG: expected 1 to {} printable Latin-1 characters without spaces at the ends",
         key, kKeyLimit);
  return out;
}

Chunk text_chunk(const std::string& key, const std::string& value, std::string& storage) {
  if (!is_utf8(value)) fail(Code::InvalidArgument, "the text \"{}\" for the picture is not UTF-8", key);
  if (value.find('\0') != std::string::npos)
    fail(Code::InvalidArgument, "the text \"{}\" for the picture has a zero byte, which PNG does not allow", key);
  std::string latin1;
  bool plain = utf8_to_latin1(value, latin1);
  storage = latin1_key(key) + std::string(plain ? 1 : 5, '\0') + (plain ? latin1 : value);
  if (storage.size() > 0x7fffffff) fail(Code::InvalidArgument, "the text \"{}\" is too long for a PNG", key);
  return {plain ? "tEXt" : "iTXt", storage, true};
}

}  // namespace

Image decode_png(const ImageSource& source) {
  PngReader reader(source);
  if (!reader.run([&] { reader.read_head(); })) source.broken("PNG", reader.message);
  int64_t width = png_get_image_width(reader.png, reader.info), height = png_get_image_height(reader.png, reader.info);
  source.check_size(width, height);
  if (!reader.run([&] { reader.unify(); })) source.broken("PNG", reader.message);

  int channels = png_get_channels(reader.png, reader.info);
  bool words = png_get_bit_depth(reader.png, reader.info) == 16, has_alpha = channels == 4;
  bool interlaced = png_get_interlace_type(reader.png, reader.info) != PNG_INTERLACE_NONE;
  size_t row_bytes = png_get_rowbytes(reader.png, reader.info);
  SINTER_ASSERT((channels == 3 || channels == 4) && row_bytes == size_t(width * channels) * (words ? 2 : 1));

  Image out{Tensor(DType::f32, {height, width, 3}), has_alpha ? Tensor(DType::f32, {height, width}) : Tensor()};
  float* rgb = out.pixels.f32().data();
  float* alpha = has_alpha ? out.alpha.f32().data() : nullptr;
  // An interlaced picture comes in seven passes that each fill in part of every row.
  Tensor rows(DType::u8, {interlaced ? height : 1, int64_t(row_bytes)});
  auto* buffer = reinterpret_cast<uint8_t*>(rows.data());
  auto convert_row = [&](const uint8_t* row, int64_t y) {
    (words ? words_to_floats : split_row)(row, width, rgb + y * width * 3, alpha ? alpha + y * width : nullptr);
  };
  bool complete = reader.run([&] {
    for (int pass = interlaced ? 6 : 0; pass > 0; --pass)
      for (int64_t y = 0; y < height; ++y) png_read_row(reader.png, buffer + size_t(y) * row_bytes, nullptr);
    for (int64_t y = 0; y < height; ++y) {
      uint8_t* row = buffer + (interlaced ? size_t(y) * row_bytes : 0);
      png_read_row(reader.png, row, nullptr);
      convert_row(row, y);
    }
    png_read_end(reader.png, nullptr);
  });
  if (!complete) source.broken("PNG", reader.message);
  return out;
}

ImageExtras png_extras(const ImageSource& source) {
  ImageExtras out;
  size_t left = kTextLimit;
  for_each_chunk(source, [&](const Chunk& chunk) {
    if (!chunk.intact) return;
    out.animated = out.animated || chunk.type == "acTL";
    if (chunk.type == "eXIf" && out.exif.empty()) out.exif = chunk.data;
    if (is_text_chunk(chunk.type)) read_text_chunk(source, chunk, left, out.text);
  });
  return out;
}

std::string encode_png(const Tensor& pixels, const ImageText& text) {
  Tensor stored = image_bytes(pixels);
  std::vector<std::string> storage(text.size());
  std::vector<Chunk> chunks;
  for (size_t i = 0; i < text.size(); ++i) chunks.push_back(text_chunk(text[i].first, text[i].second, storage[i]));

  std::string out;
  Png writer;
  writer.output = &out;
  writer.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &writer, Png::on_error, Png::on_warning);
  writer.info = writer.png ? png_create_info_struct(writer.png) : nullptr;
  bool complete = writer.info && writer.run([&] {
    png_set_write_fn(writer.png, &writer, Png::on_write, Png::on_flush);
    png_set_IHDR(writer.png, writer.info, png_uint_32(stored.dim(1)), png_uint_32(stored.dim(0)), 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_set_compression_level(writer.png, kCompression);
    png_write_info(writer.png, writer.info);
    for (size_t i = 0; i < chunks.size(); ++i)
      png_write_chunk(writer.png, reinterpret_cast<png_const_bytep>(chunks[i].type.data()),
                      reinterpret_cast<png_const_bytep>(chunks[i].data.data()), chunks[i].data.size());
    size_t row_bytes = size_t(stored.bytes() / stored.dim(0));
    for (int64_t y = 0; y < stored.dim(0); ++y)
      png_write_row(writer.png, reinterpret_cast<png_const_bytep>(stored.data()) + size_t(y) * row_bytes);
    png_write_end(writer.png, writer.info);
  });
  png_destroy_write_struct(&writer.png, &writer.info);
  if (!complete) fail(Code::InvalidArgument, "the picture cannot be written as PNG: {}", writer.message);
  return out;
}

}  // namespace sinter
