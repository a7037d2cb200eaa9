#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "io/exif.h"
#include "io/image.h"

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
