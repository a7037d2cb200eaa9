#pragma once
#include <string>
#include <string_view>

namespace sinter {

/// The code point at `text[position]`, after which `position` is moved; Code::InvalidArgument at a byte that is not UTF-8.
char32_t take_code_point(std::string_view text, size_t& position);
std::u32string decode_utf8(std::string_view text);
void append_utf8(std::string& text, char32_t code_point);
/// Code::InvalidArgument "<what> is not valid UTF-8: byte .." unless it is.
void require_utf8(std::string_view text, std::string_view what);

/// For error messages: the text if it is short, else its beginning and "...", cut between characters.
std::string shortened(std::string_view text);

/// Canonical composition (NFC), in linear time but for sorting runs of combining marks.
std::u32string canonical_composition(std::u32string text);
/// Every code point by itself: full mapping, no final sigma. This is what the fast tokenizers do.
void append_lower(std::string& text, char32_t code_point);

bool is_white_space(char32_t code_point);  ///< the Unicode property White_Space
bool is_letter(char32_t code_point);       ///< general category L*
bool is_number(char32_t code_point);       ///< general category N*
/// 0 to 9 for a decimal digit of any script, else -1.
int digit_value(char32_t code_point);

}  // namespace sinter
