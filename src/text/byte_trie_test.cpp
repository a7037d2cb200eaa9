#include "text/byte_trie.h"

#include <doctest/doctest.h>

#include <map>
#include <random>
#include <string>

#include "text/added_tokens.h"

using namespace sinter;

namespace {

std::string random_text(std::mt19937& random, size_t longest) {
  std::string out;
  for (size_t i = random() % (longest + 1); i > 0; --i) out.push_back(char('a' + random() % 3));
  return out;
}

}  // namespace

TEST_CASE("a trie finds every member that a text begins with, shortest first") {
  std::mt19937 random(11);
  for (int round = 0; round < 50; ++round) {
    ByteTrie trie;
    std::map<std::string, int32_t> members;
    for (int i = 0; i < 60; ++i) {
      std::string text = random_text(random, 6);
      if (text.empty()) continue;
      auto known = members.find(text);
      CHECK(trie.insert(text, i) == (known == members.end() ? ByteTrie::kNone : known->second));
      members[text] = i;
    }
    for (int i = 0; i < 60; ++i) {
      std::string text = random_text(random, 10);
      std::vector<std::pair<size_t, int32_t>> found, expected;
      trie.prefixes(text, [&](size_t length, int32_t value) { found.emplace_back(length, value); });
      for (size_t length = 1; length <= text.size(); ++length)
        if (auto at = members.find(text.substr(0, length)); at != members.end()) expected.emplace_back(length, at->second);
      CHECK(found == expected);
    }
  }
}

TEST_CASE("an empty trie finds nothing") {
  bool any = false;
  ByteTrie().prefixes("abc", [&](size_t, int32_t) { any = true; });
  CHECK(!any);
}

TEST_CASE("text is cut at the leftmost added token, and at the longest there") {
  AddedTokens tokens({{"<a>", 1}, {"<a>b", 2}, {"|", 3, true, true}});
  auto parts = tokens.split("x<a>b<a> | y");
  REQUIRE(parts.size() == 5);
  CHECK(parts[0].text == "x");
  CHECK(!parts[0].id);
  CHECK(parts[1].id == 2);
  CHECK(parts[2].id == 1);
  CHECK(parts[3].id == 3);
  CHECK(parts[3].text == " | ");  // takes the white space on both sides
  CHECK(parts[4].text == "y");
  CHECK(parts[4].begin == 11);
  CHECK(AddedTokens().split("abc").size() == 1);
  CHECK(tokens.split("").empty());
}
