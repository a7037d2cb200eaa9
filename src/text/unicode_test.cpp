#include "text/unicode.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

#include "base/error.h"

using namespace sinter;

namespace {

std::string encode(const std::u32string& text) {
  std::string out;
  for (char32_t c : text) append_utf8(out, c);
  return out;
}

}  // namespace

TEST_CASE("broken UTF-8 is refused at its first bad byte") {
  for (const char* bad : {"a\x80", "a\xc0\xaf", "a\xe2\x82", "a\xed\xa0\x80", "a\xf5\x80\x80\x80", "a\xff"})
    CHECK_THROWS_WITH_AS(require_utf8(bad, "the prompt"), doctest::Contains("the prompt is not valid UTF-8: byte 1 of "), Error);
  CHECK_NOTHROW(require_utf8("caf\xc3\xa9 \xf0\x9f\x98\x80", "the prompt"));
}

TEST_CASE("text is composed as the normalisation form C asks") {
  struct Case {
    std::u32string text, composed;
  };
  const Case cases[] = {
      {U"e\u0301", U"\u00e9"},
      {U"\u00e9", U"\u00e9"},
      {U"a\u0323\u0302", U"\u1ead"},         // two marks, one letter
      {U"a\u0302\u0323", U"\u1ead"},         // the same out of order
      {U"q\u0307\u0323", U"q\u0323\u0307"},  // ordered, though nothing composes
      {U"q\u0300\u0301", U"q\u0300\u0301"},  // marks of one class keep their order
      {U"\u1112\u1161\u11ab", U"\ud55c"},    // Hangul
      {U"\u2126", U"\u03a9"},                // the sign Ohm is the letter Omega
      {U"\u0915\u093c", U"\u0915\u093c"},    // excluded from composition
      {U"\ufb01", U"\ufb01"},                // compatibility forms stay
      {U"\u0344", U"\u0308\u0301"},
  };
  for (const Case& each : cases) {
    CHECK(encode(canonical_composition(each.text)) == encode(each.composed));
    CHECK(encode(canonical_composition(each.composed)) == encode(each.composed));
  }
}

TEST_CASE("the order of marks of different classes does not matter, and composing twice changes nothing") {
  std::mt19937 random(7);
  const std::u32string letters = U"aeq\u304b\u0915\u03b1", marks = U"\u0300\u0323\u0327\u093c\u3099\u0345";
  for (int round = 0; round < 500; ++round) {
    std::u32string run = marks;
    std::shuffle(run.begin(), run.end(), random);
    std::u32string other = run;
    std::shuffle(other.begin(), other.end(), random);
    char32_t letter = letters[random() % letters.size()];
    std::u32string once = canonical_composition(letter + run);
    CHECK(encode(once) == encode(canonical_composition(letter + other)));
    CHECK(encode(once) == encode(canonical_composition(once)));
  }
}

TEST_CASE("decimal digits of every script have their value") {
  CHECK(digit_value(U'0') == 0);
  CHECK(digit_value(U'9') == 9);
  CHECK(digit_value(0x664) == 4);    // Arabic-Indic
  CHECK(digit_value(0xff17) == 7);   // full width
  CHECK(digit_value(0x1d7ff) == 9);  // the last of five runs that touch
  CHECK(digit_value(0x1d7d8) == 0);
  CHECK(digit_value(U'a') == -1);
  CHECK(digit_value(0xbd) == -1);  // a half is a number, not a digit
}

TEST_CASE("lower case maps single letters, the dotted capital I to two") {
  std::string out;
  for (char32_t c : decode_utf8("A\xc3\x9c\xc4\xb0\xce\xa3")) append_lower(out, c);
  CHECK(out == "a\xc3\xbci\xcc\x87\xcf\x83");
}

TEST_CASE("shortened text ends between characters") {
  CHECK(shortened("short") == "short");
  std::string e_acutes;
  for (int i = 0; i < 40; ++i) e_acutes += i == 0 ? "x" : "\xc3\xa9";
  std::string cut = shortened(e_acutes);
  CHECK(cut.ends_with("..."));
  CHECK_NOTHROW(require_utf8(cut, "the result"));
}
