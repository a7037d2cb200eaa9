#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "io/safetensors.h"
#include "safetensors_mutator.h"

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

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return sinter::mutate_safetensors(data, size, max_size, seed);
}
