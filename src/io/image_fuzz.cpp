#include <zlib.h>

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "base/error.h"
#include "io/exif.h"
#include "io/image.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

/// Gives every chunk of a PNG the checksum of what it holds now: nothing behind a wrong one is looked at.
void repair_checksums(uint8_t* data, size_t size) {
  constexpr size_t kSignature = 8, kFrame = 12;
  auto big_endian = [&](size_t at) { return uint32_t(data[at]) << 24 | data[at + 1] << 16 | data[at + 2] << 8 | data[at + 3]; };
  for (size_t at = kSignature; at + kFrame <= size;) {
    size_t length = big_endian(at);
    if (length > size - at - kFrame) return;
    auto sum = uint32_t(crc32(0, data + at + 4, uInt(length + 4)));
    for (int i = 0; i < 4; ++i) data[at + 8 + length + size_t(i)] = uint8_t(sum >> (24 - 8 * i));
    at += kFrame + length;
  }
}

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  size = LLVMFuzzerMutate(data, size, max_size);
  bool png = std::string_view(reinterpret_cast<const char*>(data), size).starts_with("\x89PNG");
  if (png && seed % 8 != 0) repair_checksums(data, size);
  return size;
}

// Whatever the bytes are: a picture of values in 0..1, texts, or an Error.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  try {
    sinter::Image image = sinter::decode_image(file, "fuzz", {.side = 1024, .pixels = 1 << 18});
    for (float value : image.pixels.f32())
      if (!(value >= 0 && value <= 1)) std::abort();
  } catch (const sinter::Error&) {
  }
  try {
    sinter::image_text(file, "fuzz");
  } catch (const sinter::Error&) {
  }
  sinter::parse_exif({reinterpret_cast<const char*>(data), size});
  return 0;
}
