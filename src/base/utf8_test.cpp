#include "base/utf8.h"

#include <doctest/doctest.h>

namespace sinter {
namespace {

using namespace std::string_literals;

TEST_CASE("well-formed UTF-8 is recognised, and the first wrong byte is found") {
  CHECK(is_utf8(""));
  CHECK(is_utf8("plain ASCII of some length"));
  CHECK(
      is_utf8("gr\xc3\xbc\xc3\x9f"
              "e \xe7\x8c\xab \xf0\x9f\x90\xb1"));
  CHECK(find_invalid_utf8("12345678\xff") == 8);
  CHECK(find_invalid_utf8("ab\xc3") == 2);            // cut short
  CHECK(find_invalid_utf8("\xc0\xaf") == 0);          // overlong
  CHECK(find_invalid_utf8("x\xed\xa0\x80") == 1);     // surrogate
  CHECK(find_invalid_utf8("\xf4\x90\x80\x80") == 0);  // above the last plane
}

TEST_CASE("every code point survives UTF-8 and UTF-16") {
  for (uint32_t c = 1; c <= 0x10ffff; c += c < 0x3000 ? 1 : 37) {
    if (c >= 0xd800 && c <= 0xdfff) continue;
    std::string text;
    append_utf8(text, c);
    size_t at = 0;
    REQUIRE(next_code_point(text, at) == c);
    REQUIRE(at == text.size());
    REQUIRE(utf16_to_utf8(utf8_to_utf16_big_endian(text), true) == text);
  }
}

TEST_CASE("UTF-16 is read in both byte orders, and what is no character becomes U+FFFD") {
  CHECK(utf8_to_utf16_big_endian("a\xf0\x9f\x90\xb1") == "\0a\xd8\x3d\xdc\x31"s);
  CHECK(utf16_to_utf8("a\0\x3d\xd8\x31\xdc"s, false) == "a\xf0\x9f\x90\xb1");
  CHECK(utf16_to_utf8("\xd8\x3d\0b"s, true) ==
        "\xef\xbf\xbd"
        "b");
  CHECK(utf16_to_utf8("\0a\0"s, true) == "a");
}

TEST_CASE("Latin-1 takes exactly the first 256 code points") {
  std::string out;
  CHECK(utf8_to_latin1("\xc3\xbf", out));
  CHECK(out == "\xff");
  CHECK(latin1_to_utf8("\xff") == "\xc3\xbf");
  CHECK(!utf8_to_latin1("\xc4\x80", out));
}

}  // namespace
}  // namespace sinter
