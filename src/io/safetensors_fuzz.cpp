#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "io/safetensors.h"

// Whatever the bytes are: an answer or an Error, and every tensor of an answer inside the file.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  try {
    uint64_t total = 0;
    for (auto& entry : sinter::parse_safetensors(file, "fuzz").entries) {
      if (entry.offset > size || entry.bytes > size - entry.offset) std::abort();
      total += entry.bytes;
    }
    if (total > size) std::abort();
  } catch (const sinter::Error&) {
  }
  return 0;
}
