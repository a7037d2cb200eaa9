#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace sinter {

/// SHA-256 (FIPS 180-4), for digests that other programs compute too: hashes of files in metadata, lists of tensors. For identity
/// among ourselves there is the faster hash.h.
class Sha256 {
 public:
  Sha256& add(const void* data, size_t bytes);
  Sha256& add(std::string_view text) { return add(text.data(), text.size()); }
  /// Of everything added so far, as 64 lower-case hexadecimal digits. Nothing can be added afterwards.
  std::string hex();

 private:
  void compress(const uint8_t* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_{};
  uint64_t bytes_ = 0;
};

std::string sha256_hex(std::string_view text);

}  // namespace sinter
