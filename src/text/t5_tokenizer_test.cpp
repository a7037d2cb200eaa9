#include "text/t5_tokenizer.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "text/synthetic_vocabulary.h"

using namespace sinter;
using nlohmann::json;

namespace {

const std::string kBlank = "\xe2\x96\x81";

/// A tokenizer.json with the three special pieces and these.
json file_of(const std::vector<std::pair<std::string, double>>& pieces) {
  json file = json::parse(synthetic_t5_vocabulary(100));
  file["model"]["vocab"] = json::array();
  for (const char* special : {"<pad>", "</s>", "<unk>"}) file["model"]["vocab"].push_back(json::array({special, 0.0}));
  for (const auto& [text, score] : pieces) file["model"]["vocab"].push_back(json::array({text, score}));
  return file;
}

T5Tokenizer tokenizer_of(const json& file) { return T5Tokenizer::from_tokenizer_json(file.dump(), "t.json"); }

std::string error_of(const json& file) {
  try {
    tokenizer_of(file);
  } catch (const Error& e) {
    return e.message();
  }
  return "no error";
}

using Ids = std::vector<int64_t>;

}  // namespace

TEST_CASE("of all ways to cut a word the most probable is taken") {
  std::mt19937 random(5);
  std::map<std::string, double> pieces = {{"a", -3.1}, {"b", -3.3}, {"c", -3.7}};
  for (int i = 0; i < 25; ++i) {
    std::string text;
    for (int j = int(random() % 3) + 2; j > 0; --j) text.push_back(char('a' + random() % 3));
    pieces[text] = -double(random() % 100000) / 10000 - 1;
  }
  std::vector<std::pair<std::string, double>> list(pieces.begin(), pieces.end());
  json file = file_of(list);
  file["pre_tokenizer"]["prepend_scheme"] = "never";
  T5Tokenizer tokenizer = tokenizer_of(file);
  for (int round = 0; round < 300; ++round) {
    std::string word;
    for (int j = int(random() % 10) + 1; j > 0; --j) word.push_back(char('a' + random() % 3));
    CAPTURE(word);
    // Every set of places to cut at.
    double best = -std::numeric_limits<double>::infinity();
    for (unsigned cuts = 0; cuts < 1u << (word.size() - 1); ++cuts) {
      double score = 0;
      for (size_t begin = 0; begin < word.size();) {
        size_t end = begin + 1;
        while (end < word.size() && !(cuts >> (end - 1) & 1)) ++end;
        auto found = pieces.find(word.substr(begin, end - begin));
        score += found == pieces.end() ? -1e9 : found->second;
        begin = end;
      }
      best = std::max(best, score);
    }
    double taken = 0;
    std::string spelt;
    for (int64_t id : tokenizer.encode(word)) {
      spelt += list[size_t(id) - 3].first;
      taken += list[size_t(id) - 3].second;
    }
    CHECK(spelt == word);
    CHECK(std::abs(taken - best) < 1e-9);
  }
}

TEST_CASE("unknown characters of one run become one unknown id") {
  auto tokenizer = tokenizer_of(file_of({{kBlank, -2}, {"a", -3}}));
  CHECK(tokenizer.encode("a") == Ids{3, 4});
  CHECK(tokenizer.encode("xyz") == Ids{3, 2});
  CHECK(tokenizer.encode("xayz x") == Ids{3, 2, 4, 2, 3, 2});
}

TEST_CASE("blanks are marked, the first word too, and white space at the end is dropped") {
  auto tokenizer = tokenizer_of(file_of({{kBlank, -2}, {"a", -3}, {kBlank + "a", -3}}));
  CHECK(tokenizer.encode("a a") == Ids{5, 5});
  CHECK(tokenizer.encode(" a  ") == Ids{5});
  CHECK(tokenizer.encode("a   a") == Ids{5, 5});
  CHECK(tokenizer.encode("") == Ids{});
  CHECK(tokenizer.encode(" ") == Ids{});
}

TEST_CASE("special pieces are found in the text, and the text after them begins no new word") {
  auto tokenizer = tokenizer_of(file_of({{kBlank, -2}, {"a", -3}, {kBlank + "a", -3}}));
  CHECK(tokenizer.encode("a</s>a") == Ids{5, 1, 4});
  CHECK(tokenizer.encode("</s> a") == Ids{1, 5});
  CHECK(tokenizer.encode("<pad>") == Ids{0});
}

TEST_CASE("older files split at white space and say add_prefix_space") {
  json file = file_of({{kBlank, -2}, {"a", -3}, {kBlank + "a", -3}});
  file["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "WhitespaceSplit"}}, {{"type", "Metaspace"}, {"replacement", kBlank}, {"add_prefix_space", true}}}}};
  auto tokenizer = tokenizer_of(file);
  CHECK(tokenizer.encode("a\ta  aa") == Ids{5, 5, 5, 4});
  CHECK(tokenizer.encode("</s>a") == Ids{1, 5});
  file["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = false;
  CHECK(tokenizer_of(file).encode("a a") == Ids{4, 4});
}

TEST_CASE("broken T5 files are refused with the file's name and the reason") {
  json good = file_of({{kBlank, -2}});
  CHECK(error_of(good) == "no error");
  json file = good;
  file["model"]["unk_id"] = 4;
  CHECK(error_of(file) == "t.json: \"unk_id\" is 4; expected the id of one of the 4 pieces");
  file["model"].erase("unk_id");
  CHECK(error_of(file) == "t.json: \"unk_id\" is missing; expected the id of one of the 4 pieces");
  file = good;
  file["model"]["vocab"].push_back(json::array({kBlank, -3}));
  CHECK(error_of(file) == "t.json: the piece '" + kBlank + "' is there twice, the second time with id 4");
  file = good;
  file["model"]["vocab"].push_back(json::array({"a", "b"}));
  CHECK(error_of(file) == "t.json: piece 4: expected [text, log probability], found a text");
  file = good;
  file["model"]["vocab"].push_back(json::array({"a"}));
  CHECK(error_of(file) == "t.json: piece 4: expected [text, log probability], found a list of another length");
  file = good;
  file["normalizer"]["normalizers"].push_back({{"type", "Lowercase"}});
  CHECK(error_of(file).starts_with("t.json: the normaliser step 'Lowercase' is not one that we read"));
  file = good;
  file["normalizer"]["normalizers"].push_back({{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}});
  CHECK(error_of(file) == "t.json: the character map has 3 bytes; expected at least 4");
  file = good;
  file["pre_tokenizer"] = nullptr;
  CHECK(error_of(file) == "t.json: it has no Metaspace pre-tokenizer, which T5's has");
  file = good;
  file["added_tokens"][0]["id"] = -5;
  CHECK(error_of(file) == "t.json: added token '<pad>' has the id -5; expected 0 to 16777215");
  file = good;
  file["model"]["type"] = "WordPiece";
  CHECK(error_of(file) == "t.json: not T5's tokenizer: expected a Unigram model, found WordPiece");
  file = good;
  file["model"]["vocab"] = json::array();
  CHECK(error_of(file) == "t.json: its model has no pieces (\"vocab\")");
  CHECK_THROWS_WITH_AS(T5Tokenizer::from_tokenizer_json(good.dump().substr(0, 500), "t.json"),
                       doctest::Contains("t.json: not valid JSON, from byte 5"), Error);
}

TEST_CASE("a file whose normaliser doubles the text again and again is refused, not obeyed") {
  json file = file_of({{kBlank, -2}});
  for (int i = 0; i < 60; ++i)
    file["normalizer"]["normalizers"].push_back({{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aa"}});
  auto tokenizer = tokenizer_of(file);
  CHECK_THROWS_WITH_AS(tokenizer.encode("a"), doctest::Contains("the normalised text would be longer than"), Error);
}
