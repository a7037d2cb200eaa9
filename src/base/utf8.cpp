#include "base/utf8.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>

namespace sinter {
namespace {

constexpr uint32_t kReplacement = 0xfffd;

bool is_code_point(uint32_t value) { return value < 0xd800 || (value > 0xdfff && value <= 0x10ffff); }

/// The length of the character at `at`, or 0.
size_t read_code_point(std::string_view text, size_t at, uint32_t& code_point) {
  utf8proc_int32_t value;
  auto length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                                 utf8proc_ssize_t(std::min<size_t>(text.size() - at, 4)), &value);
  if (length <= 0) return 0;
  code_point = uint32_t(value);
  return size_t(length);
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    // Headers and prompts are ASCII nearly throughout: eight bytes at a time.
    uint64_t eight;
    while (text.size() - at >= sizeof eight) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if (eight & 0x8080808080808080u) break;
      at += sizeof eight;
    }
    if (at == text.size()) break;
    if (uint8_t(text[at]) < 0x80) {
      ++at;
      continue;
    }
    uint32_t code_point;
    size_t length = read_code_point(text, at, code_point);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

void append_utf8(std::string& out, uint32_t code_point) {
  if (!is_code_point(code_point)) code_point = kReplacement;
  utf8proc_uint8_t bytes[4];
  auto length = utf8proc_encode_char(utf8proc_int32_t(code_point), bytes);
  out.append(reinterpret_cast<const char*>(bytes), size_t(length));
}

uint32_t next_code_point(std::string_view text, size_t& at) {
  uint32_t code_point;
  if (size_t length = read_code_point(text, at, code_point)) {
    at += length;
    return code_point;
  }
  ++at;
  return kReplacement;
}

std::string latin1_to_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) append_utf8(out, uint8_t(c));
  return out;
}

bool utf8_to_latin1(std::string_view text, std::string& out) {
  out.clear();
  for (size_t at = 0; at < text.size();) {
    uint32_t code_point = next_code_point(text, at);
    if (code_point > 0xff) return false;
    out += char(code_point);
  }
  return true;
}

std::string utf8_to_utf16_big_endian(std::string_view text) {
  std::string out;
  auto put = [&](uint32_t unit) {
    out += char(unit >> 8);
    out += char(unit & 0xff);
  };
  for (size_t at = 0; at < text.size();) {
    uint32_t code_point = next_code_point(text, at);
    if (code_point < 0x10000) {
      put(code_point);
    } else {
      put(0xd800 + ((code_point - 0x10000) >> 10));
      put(0xdc00 + ((code_point - 0x10000) & 0x3ff));
    }
  }
  return out;
}

std::string utf16_to_utf8(std::string_view bytes, bool high_first) {
  auto unit = [&](size_t i) {
    uint32_t a = uint8_t(bytes[2 * i]), b = uint8_t(bytes[2 * i + 1]);
    return high_first ? a << 8 | b : b << 8 | a;
  };
  std::string out;
  size_t count = bytes.size() / 2;
  for (size_t i = 0; i < count; ++i) {
    uint32_t value = unit(i);
    bool paired = value >= 0xd800 && value < 0xdc00 && i + 1 < count && unit(i + 1) >= 0xdc00 && unit(i + 1) < 0xe000;
    if (paired) value = 0x10000 + ((value - 0xd800) << 10) + (unit(++i) - 0xdc00);
    append_utf8(out, value);
  }
  return out;
}

}  // namespace sinter
