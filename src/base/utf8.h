#pragma once
#include <cstdint>
#include <string>
#include <string_view>

namespace sinter {

/// Where the first byte is that does not belong to well-formed UTF-8; npos where all does.
size_t find_invalid_utf8(std::string_view text);
inline bool is_utf8(std::string_view text) { return find_invalid_utf8(text) == std::string_view::npos; }

/// Appends one code point. Values that are none (surrogates, above 0x10ffff) become U+FFFD.
void append_utf8(std::string& out, uint32_t code_point);
/// The code point at `at`, which moves behind it; U+FFFD, and one byte on, where there is none.
uint32_t next_code_point(std::string_view text, size_t& at);

std::string latin1_to_utf8(std::string_view text);
/// False, and `out` undefined, where `text` holds a character that Latin-1 lacks.
bool utf8_to_latin1(std::string_view text, std::string& out);
/// UTF-16 without a mark, high byte first.
std::string utf8_to_utf16_big_endian(std::string_view text);
/// `high_first` gives the byte order; an odd last byte is ignored, unpaired surrogates become U+FFFD.
std::string utf16_to_utf8(std::string_view bytes, bool high_first);

}  // namespace sinter
