#include "base/hash.h"

#include <fmt/core.h>
#include <xxhash.h>

#include <charconv>

namespace sinter {

Digest digest_of(const void* data, size_t bytes) {
  XXH128_hash_t hash = XXH3_128bits(data, bytes);
  return {hash.high64, hash.low64};
}

std::string Digest::hex() const { return fmt::format("{:016x}{:016x}", high, low); }

bool Digest::parse(std::string_view text, Digest& digest) {
  if (text.size() != 32) return false;
  auto half = [&](size_t at, uint64_t& out) {
    auto [end, error] = std::from_chars(text.data() + at, text.data() + at + 16, out, 16);
    return error == std::errc() && end == text.data() + at + 16;
  };
  return half(0, digest.high) && half(16, digest.low);
}

}  // namespace sinter
