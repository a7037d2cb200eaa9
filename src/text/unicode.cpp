#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace sinter {
namespace {

[[noreturn]] void fail_utf8(std::string_view what, std::string_view text, size_t position) {
  fail(Code::InvalidArgument, "{} is not valid UTF-8: byte {} of {} is 0x{:02x}; save or send the text as UTF-8", what, position,
       text.size(), static_cast<unsigned char>(text[position]));
}

/// False where no code point begins at `position`.
bool read_code_point(std::string_view text, size_t position, char32_t& code_point, size_t& bytes) {
  auto lead = static_cast<unsigned char>(text[position]);
  if (lead < 0x80) {
    code_point = lead;
    bytes = 1;
    return true;
  }
  utf8proc_int32_t value;
  auto begin = reinterpret_cast<const utf8proc_uint8_t*>(text.data() + position);
  utf8proc_ssize_t used = utf8proc_iterate(begin, utf8proc_ssize_t(text.size() - position), &value);
  if (used <= 0) return false;
  code_point = char32_t(value);
  bytes = size_t(used);
  return true;
}

/// Appends the canonical decomposition of one code point.
void append_decomposed(std::u32string& out, char32_t code_point) {
  constexpr auto options = utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
  utf8proc_int32_t parts[16];
  int boundary = 0;
  utf8proc_ssize_t count = utf8proc_decompose_char(utf8proc_int32_t(code_point), parts, 16, options, &boundary);
  if (count <= 0 || count > 16) {
    out.push_back(code_point);
    return;
  }
  for (utf8proc_ssize_t i = 0; i < count; ++i) out.push_back(char32_t(parts[i]));
}

int combining_class(char32_t code_point) { return utf8proc_get_property(utf8proc_int32_t(code_point))->combining_class; }

/// Canonical order. utf8proc does this by insertion, which takes minutes on a prompt made of combining marks alone.
void sort_combining_marks(std::u32string& text) {
  std::vector<uint64_t> marks;  // class, then place in the run (so that equal classes keep their order), then the mark
  for (size_t begin = 0; begin < text.size();) {
    marks.clear();
    for (size_t i = begin; i < text.size() && combining_class(text[i]) != 0; ++i)
      marks.push_back(uint64_t(combining_class(text[i])) << 56 | uint64_t(i - begin) << 21 | text[i]);
    std::sort(marks.begin(), marks.end());
    for (uint64_t mark : marks) text[begin++] = char32_t(mark & 0x1fffff);
    if (marks.empty()) ++begin;
  }
}

utf8proc_category_t category(char32_t code_point) { return utf8proc_category(utf8proc_int32_t(code_point)); }

}  // namespace

char32_t take_code_point(std::string_view text, size_t& position) {
  char32_t code_point;
  size_t bytes;
  if (!read_code_point(text, position, code_point, bytes)) fail_utf8("the text", text, position);
  position += bytes;
  return code_point;
}

std::u32string decode_utf8(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) out.push_back(take_code_point(text, i));
  return out;
}

void append_utf8(std::string& text, char32_t code_point) {
  utf8proc_uint8_t bytes[4];
  utf8proc_ssize_t count = utf8proc_encode_char(utf8proc_int32_t(code_point), bytes);
  text.append(reinterpret_cast<const char*>(bytes), size_t(count));
}

void require_utf8(std::string_view text, std::string_view what) {
  char32_t code_point;
  size_t bytes;
  for (size_t i = 0; i < text.size(); i += bytes)
    if (!read_code_point(text, i, code_point, bytes)) fail_utf8(what, text, i);
}

std::string shortened(std::string_view text) {
  constexpr size_t kLongest = 60;
  if (text.size() <= kLongest) return std::string(text);
  size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

std::u32string canonical_composition(std::u32string text) {
  // Nothing below U+0300 combines with what stands before it.
  if (std::all_of(text.begin(), text.end(), [](char32_t c) { return c < 0x300; })) return text;
  std::u32string out;
  out.reserve(text.size());
  for (char32_t c : text) append_decomposed(out, c);
  sort_combining_marks(out);
  static_assert(sizeof(utf8proc_int32_t) == sizeof(char32_t));
  constexpr auto options = utf8proc_option_t(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  utf8proc_ssize_t length =
      utf8proc_normalize_utf32(reinterpret_cast<utf8proc_int32_t*>(out.data()), utf8proc_ssize_t(out.size()), options);
  SINTER_ASSERT(length >= 0);
  out.resize(size_t(length));
  return out;
}

void append_lower(std::string& text, char32_t code_point) {
  if (code_point == 0x130) {  // the one letter whose lower case is two code points
    text += "i\xcc\x87";
    return;
  }
  append_utf8(text, char32_t(utf8proc_tolower(utf8proc_int32_t(code_point))));
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_letter(char32_t code_point) {
  auto value = category(code_point);
  return value >= UTF8PROC_CATEGORY_LU && value <= UTF8PROC_CATEGORY_LO;
}

bool is_number(char32_t code_point) {
  auto value = category(code_point);
  return value >= UTF8PROC_CATEGORY_ND && value <= UTF8PROC_CATEGORY_NO;
}

int digit_value(char32_t code_point) {
  if (category(code_point) != UTF8PROC_CATEGORY_ND) return -1;
  // Decimal digits lie in runs of ten that begin with zero; some runs touch, hence the remainder.
  int above = 0;
  while (code_point > 0 && category(--code_point) == UTF8PROC_CATEGORY_ND) ++above;
  return above % 10;
}

}  // namespace sinter
