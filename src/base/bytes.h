#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "base/error.h"

namespace sinter {

/// Writes plain values one after the other; what ByteReader reads back.
class ByteWriter {
 public:
  template <class T>
  requires(std::is_arithmetic_v<T> || std::is_enum_v<T>) void put(T value) {
    const auto* at = reinterpret_cast<const std::byte*>(&value);
    bytes_.insert(bytes_.end(), at, at + sizeof value);
  }
  void put(std::string_view text) {
    put(uint64_t(text.size()));
    const auto* at = reinterpret_cast<const std::byte*>(text.data());
    bytes_.insert(bytes_.end(), at, at + text.size());
  }
  void put(std::span<const std::byte> data) { put(std::string_view(reinterpret_cast<const char*>(data.data()), data.size())); }
  std::vector<std::byte> take() { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// Code::Corrupt where the bytes end too early or a count cannot be true.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  template <class T>
  T get() {
    if constexpr (std::is_same_v<T, bool>) {
      auto value = get<uint8_t>();  // a bool that is neither 0 nor 1 must not even be read
      if (value > 1) fail(Code::Corrupt, "a truth value of {}", value);
      return value == 1;
    } else {
      T value;
      std::memcpy(&value, take(sizeof value).data(), sizeof value);
      return value;
    }
  }
  std::span<const std::byte> get_bytes() { return take(get<uint64_t>()); }
  /// A count of things that take at least one byte each.
  size_t get_count() {
    auto count = get<uint64_t>();
    if (count > bytes_.size()) fail(Code::Corrupt, "a count of {} in {} remaining bytes", count, bytes_.size());
    return size_t(count);
  }
  bool at_end() const { return bytes_.empty(); }

 private:
  std::span<const std::byte> take(uint64_t size) {
    if (size > bytes_.size()) fail(Code::Corrupt, "{} bytes are wanted, {} remain", size, bytes_.size());
    auto data = bytes_.first(size_t(size));
    bytes_ = bytes_.subspan(size_t(size));
    return data;
  }
  std::span<const std::byte> bytes_;
};

}  // namespace sinter
