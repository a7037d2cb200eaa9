#include "text/charsmap.h"

#include <doctest/doctest.h>

#include <cstring>
#include <map>

#include "base/error.h"

using namespace sinter;

namespace {

/// A double array of keys that share no bytes but the first of all: enough to check the reader against a table written by hand.
/// A node at place p with offset o has its child for byte b at (p ^ o) ^ b, and its value at p ^ o.
class TableWriter {
 public:
  TableWriter() : units_(1 << 14) { set_offset(0, 1 << 8); }

  void add(const std::string& key, const std::string& replacement) {
    size_t place = 0;
    for (char c : key) {
      auto byte = static_cast<unsigned char>(c);
      size_t child = (place ^ offset_[place]) ^ byte;
      if (units_[child] == 0) {
        units_[child] = byte;
        // The children of each node get 256 places of their own.
        set_offset(child, (child & ~size_t(255)) ^ (next_block_ << 8) ^ (child & 255));
        ++next_block_;
      }
      place = child;
    }
    units_[place] |= 1u << 8;
    units_[place ^ offset_[place]] = 0x80000000u | uint32_t(replacements_.size());
    replacements_ += replacement;
    replacements_.push_back('\0');
  }

  std::string bytes() const {
    std::string out(4 + units_.size() * 4, '\0');
    auto size = uint32_t(units_.size() * 4);
    std::memcpy(out.data(), &size, 4);
    std::memcpy(out.data() + 4, units_.data(), size);
    return out + replacements_;
  }

 private:
  void set_offset(size_t place, size_t offset) {
    offset_[place] = offset;
    units_[place] |= uint32_t(offset) << 10;
  }
  std::vector<uint32_t> units_;
  std::map<size_t, size_t> offset_;
  size_t next_block_ = 2;
  std::string replacements_;
};

}  // namespace

TEST_CASE("characters and short clusters are replaced, others stay") {
  TableWriter table;
  table.add("\n", " ");
  table.add("\xef\xac\x81", "fi");
  table.add("e\xcc\x81", "\xc3\xa9");
  table.add("\xe2\x80\x8b", "");
  CharsMap map(table.bytes(), "test");
  CHECK(map.apply("a\n\xef\xac\x81ne\xcc\x81 z\xe2\x80\x8bz e") == "a fin\xc3\xa9 zz e");
  CHECK(map.apply("") == "");
  // A line end of two characters is one cluster, which its first character's entry replaces whole.
  table.add("\r", " ");
  CHECK(CharsMap(table.bytes(), "test").apply("a\r\nb") == "a b");
}

TEST_CASE("a damaged character map is refused or harmless, never a crash") {
  TableWriter table;
  table.add("\n", " ");
  std::string good = table.bytes();
  CHECK_THROWS_WITH_AS(CharsMap("abc", "t.json"), doctest::Contains("t.json: the character map has 3 bytes"), Error);
  std::string odd = good;
  odd[0] = 3;
  CHECK_THROWS_AS(CharsMap(odd, "t.json"), Error);
  CHECK_THROWS_AS(CharsMap(good.substr(0, 200), "t.json"), Error);
  CHECK_THROWS_WITH_AS(CharsMap::from_base64("ab$d", "t.json"), doctest::Contains("not base64 at character 2"), Error);
  for (size_t i = 4; i < 4 + 4 * 1024; ++i) {
    std::string flipped = good;
    flipped[i] = char(flipped[i] ^ 0xff);
    CHECK_NOTHROW(CharsMap(flipped, "t.json").apply("a\nb"));
  }
}
