#include <cstdio>
// jpeglib.h needs FILE.
#include <jerror.h>
#include <jpeglib.h>

#include <algorithm>
#include <csetjmp>
#include <cstdlib>
#include <memory>

#include "io/exif.h"
#include "io/image_codecs.h"

namespace sinter {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view kExifMark = "Exif\0\0"sv;
constexpr size_t kMarkerLimit = 65533;  // bytes in one marker, its length field not counted
// A small file can ask for thousands of passes over a large picture. Ordinary progressive ones have ten.
constexpr int64_t kMaxScans = 200, kScansOfAnySize = 20;
constexpr int64_t kMaxScannedPixels = 4'000'000'000;
constexpr int64_t kMaxSide = 65535;

/// libjpeg reports errors by a function that must not return: a long jump over C frames and over code without destructors.
struct Errors {
  jpeg_error_mgr manager;
  jmp_buf jump;
  char message[JMSG_LENGTH_MAX] = "";

  static Errors& of(j_common_ptr info) { return *reinterpret_cast<Errors*>(info->err); }
  static void on_error(j_common_ptr info) {
    info->err->format_message(info, of(info).message);
    longjmp(of(info).jump, 1);
  }
  static void on_message(j_common_ptr info, int level) {
    // The library makes up grey pixels for what is missing at the end; everything else that it warns of is common.
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) {
      std::snprintf(of(info).message, JMSG_LENGTH_MAX, "it is cut short");
      longjmp(of(info).jump, 1);
    }
  }

  jpeg_error_mgr* install() {
    jpeg_std_error(&manager);
    manager.error_exit = on_error;
    manager.emit_message = on_message;
    return &manager;
  }

  template <class Body>
  [[gnu::noinline]] bool run(const Body& body) {
    if (setjmp(jump)) return false;
    body();
    return true;
  }
};
static_assert(offsetof(Errors, manager) == 0);

void watch_scans(j_common_ptr info) {
  auto* picture = reinterpret_cast<j_decompress_ptr>(info);
  int64_t pixels = int64_t(picture->image_width) * picture->image_height;
  int64_t most = std::clamp(kMaxScannedPixels / pixels, kScansOfAnySize, kMaxScans);
  if (picture->input_scan_number <= most) return;
  std::snprintf(Errors::of(info).message, JMSG_LENGTH_MAX, "it has more than %d scans", int(most));
  longjmp(Errors::of(info).jump, 1);
}

struct Reader {
  Errors errors;
  jpeg_decompress_struct info{};
  jpeg_progress_mgr progress{};

  Reader() { info.err = errors.install(); }
  ~Reader() { jpeg_destroy_decompress(&info); }
};

/// Photoshop, and with it everybody, stores CMYK inverted and says so by an Adobe marker.
void cmyk_to_rgb(const uint8_t* row, int64_t width, bool inverted, float* rgb) {
  for (int64_t x = 0; x < width; ++x, row += 4, rgb += 3) {
    for (int c = 0; c < 3; ++c) {
      int paper = inverted ? row[c] * row[3] : (255 - row[c]) * (255 - row[3]);
      rgb[c] = float(paper) / (255.0f * 255.0f);
    }
  }
}

/// Calls visit(marker, data) for every marker before the pixels.
template <class Visit>
void for_each_marker(const ImageSource& source, Visit&& visit) {
  std::string_view file = source.text();
  size_t at = 2;
  while (at + 4 <= file.size()) {
    if (uint8_t(file[at]) != 0xff) return;
    uint8_t marker = uint8_t(file[at + 1]);
    if (marker == 0xff) {  // a fill byte
      ++at;
      continue;
    }
    if (marker == 0xda || marker == 0xd9) return;
    size_t length = big_endian(file, at + 2, 2);
    if (length < 2 || length > file.size() - at - 2) return;
    visit(marker, file.substr(at + 4, length - 2));
    at += 2 + length;
  }
}

}  // namespace

Image decode_jpeg(const ImageSource& source) {
  auto reader = std::make_unique<Reader>();
  jpeg_decompress_struct& info = reader->info;
  auto check = [&](bool done) {
    if (!done) source.broken("JPEG", reader->errors.message);
  };
  check(reader->errors.run([&] {
    jpeg_create_decompress(&info);
    jpeg_mem_src(&info, reinterpret_cast<const unsigned char*>(source.file.data()), source.file.size());
    jpeg_read_header(&info, TRUE);
  }));
  source.check_size(info.image_width, info.image_height);

  bool cmyk = info.jpeg_color_space == JCS_CMYK || info.jpeg_color_space == JCS_YCCK;
  info.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
  reader->progress.progress_monitor = watch_scans;
  info.progress = &reader->progress;
  check(reader->errors.run([&] { jpeg_start_decompress(&info); }));
  int64_t width = info.output_width, height = info.output_height;
  SINTER_ASSERT(info.output_components == (cmyk ? 4 : 3));

  Image out{Tensor(DType::f32, {height, width, 3}), {}};
  Tensor row_memory(DType::u8, {width, info.output_components});
  float* rgb = out.pixels.f32().data();
  auto* row = reinterpret_cast<JSAMPLE*>(row_memory.data());
  bool inverted = info.saw_Adobe_marker;
  check(reader->errors.run([&] {
    while (info.output_scanline < info.output_height) {
      float* to = rgb + int64_t(info.output_scanline) * width * 3;
      JSAMPROW rows[1] = {row};
      jpeg_read_scanlines(&info, rows, 1);
      if (cmyk)
        cmyk_to_rgb(row, width, inverted, to);
      else
        bytes_to_floats(row, to, width * 3);
    }
  }));
  return out;
}

ImageExtras jpeg_extras(const ImageSource& source) {
  ImageExtras out;
  for_each_marker(source, [&](uint8_t marker, std::string_view data) {
    if (marker == 0xe1 && data.starts_with(kExifMark) && out.exif.empty()) out.exif = data.substr(kExifMark.size());
  });
  return out;
}

std::string encode_jpeg(const Tensor& pixels, int quality, const ImageText& text) {
  if (quality < 1 || quality > 100) fail(Code::InvalidArgument, "JPEG quality {}: expected 1 to 100", quality);
  Tensor stored = image_bytes(pixels);
  if (std::max(stored.dim(0), stored.dim(1)) > kMaxSide)
    fail(Code::InvalidArgument, "a JPEG has at most {} pixels a side, and this picture has {} x {}; write a PNG", kMaxSide,
         stored.dim(1), stored.dim(0));
  std::string exif = build_exif(text);
  if (!exif.empty()) exif.insert(0, kExifMark);
  if (exif.size() > kMarkerLimit)
    fail(Code::InvalidArgument, "a JPEG holds {} bytes of text, and there are {}; write a PNG or a WebP", kMarkerLimit,
         exif.size());

  jpeg_compress_struct info{};
  auto errors = std::make_unique<Errors>();
  info.err = errors->install();
  unsigned char* memory = nullptr;
  unsigned long size = 0;
  bool complete = errors->run([&] {
    jpeg_create_compress(&info);
    jpeg_mem_dest(&info, &memory, &size);
    info.image_width = JDIMENSION(stored.dim(1));
    info.image_height = JDIMENSION(stored.dim(0));
    info.input_components = 3;
    info.in_color_space = JCS_RGB;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, quality, TRUE);
    info.optimize_coding = TRUE;
    jpeg_start_compress(&info, TRUE);
    if (!exif.empty())
      jpeg_write_marker(&info, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(exif.data()), unsigned(exif.size()));
    while (info.next_scanline < info.image_height) {
      auto* row = reinterpret_cast<JSAMPLE*>(stored.data()) + size_t(info.next_scanline) * info.image_width * 3;
      jpeg_write_scanlines(&info, &row, 1);
    }
    jpeg_finish_compress(&info);
  });
  jpeg_destroy_compress(&info);
  std::unique_ptr<unsigned char, void (*)(void*)> owned(memory, std::free);
  if (!complete) fail(Code::Internal, "the picture cannot be written as JPEG: {}", errors->message);
  return {reinterpret_cast<const char*>(memory), size};
}

}  // namespace sinter
