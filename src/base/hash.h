#pragma once
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

namespace sinter {

/// 128 bits of XXH3: identity of content, not protection against forgery.
struct Digest {
  uint64_t high = 0, low = 0;
  auto operator<=>(const Digest&) const = default;
  /// 32 lower-case hexadecimal digits.
  std::string hex() const;
  /// Reads what hex() wrote; false if `text` is anything else.
  static bool parse(std::string_view text, Digest& digest);
};

Digest digest_of(const void* data, size_t bytes);
inline Digest digest_of(std::string_view text) { return digest_of(text.data(), text.size()); }

/// Collects bytes and digests them at the end. Every value is written with its size, so that ("ab","c") and ("a","bc") differ.
class Hasher {
 public:
  Hasher& add(std::string_view text) {
    add(uint64_t(text.size()));
    bytes_.append(text);
    return *this;
  }
  Hasher& add(const char* text) { return add(std::string_view(text)); }
  Hasher& add(const Digest& digest) { return add(digest.high).add(digest.low); }
  template <class T>
  requires(std::is_arithmetic_v<T> || std::is_enum_v<T>) Hasher& add(T value) {
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  Digest digest() const { return digest_of(bytes_.data(), bytes_.size()); }

 private:
  std::string bytes_;
};

struct DigestHash {
  size_t operator()(const Digest& digest) const { return size_t(digest.low); }
};

}  // namespace sinter
