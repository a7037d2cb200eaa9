#include "text/clip_tokenizer.h"

#include <doctest/doctest.h>

#include <map>
#include <nlohmann/json.hpp>
#include <random>

#include "base/error.h"
#include "text/synthetic_vocabulary.h"
#include "text/unicode.h"

using namespace sinter;
using nlohmann::json;

namespace {

const SyntheticClipVocabulary& files() {
  static const auto value = synthetic_clip_vocabulary(2000);
  return value;
}

const ClipTokenizer& clip() {
  static const auto value = ClipTokenizer::from_vocab_and_merges(files().vocab_json, files().merges_txt);
  return value;
}

/// The words that the ids spell, "|" at each end of word.
std::string spelt(const std::vector<int64_t>& ids) {
  static const auto texts = [] {
    std::map<int64_t, std::string> out;
    for (const auto& [text, id] : read_vocab_json(files().vocab_json, "vocab.json")) out[id] = text;
    return out;
  }();
  auto characters = byte_characters();
  std::string out;
  for (int64_t id : ids) {
    std::string text = texts.at(id);
    bool end = text.ends_with("</w>");
    if (end) text.resize(text.size() - 4);
    if (id >= 1998) {
      out += text + "|";
      continue;
    }
    for (char32_t c : decode_utf8(text))
      out.push_back(char(std::find(characters.begin(), characters.end(), c) - characters.begin()));
    if (end) out += "|";
  }
  return out;
}

std::string words(const std::string& text) { return spelt(clip().encode(text)); }

/// Byte pair encoding as it is defined: again and again merge the pair of lowest rank, leftmost first.
std::vector<int64_t> merged_one_by_one(const std::string& word) {
  static const auto ids = [] {
    std::map<std::string, int64_t> out;
    for (const auto& [text, id] : read_vocab_json(files().vocab_json, "vocab.json")) out[text] = id;
    return out;
  }();
  static const auto ranks = [] {
    std::map<std::pair<std::string, std::string>, size_t> out;
    for (const auto& merge : read_merges(files().merges_txt, "merges.txt")) out.emplace(merge, out.size());
    return out;
  }();
  std::vector<std::string> symbols;
  for (char c : word) symbols.emplace_back(1, c);
  symbols.back() += "</w>";
  for (;;) {
    size_t best = 0, lowest = SIZE_MAX;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      auto found = ranks.find({symbols[i], symbols[i + 1]});
      if (found != ranks.end() && found->second < lowest) best = i, lowest = found->second;
    }
    if (lowest == SIZE_MAX) break;
    symbols[best] += symbols[best + 1];
    symbols.erase(symbols.begin() + ptrdiff_t(best) + 1);
  }
  std::vector<int64_t> out;
  for (const std::string& symbol : symbols) out.push_back(ids.at(symbol));
  return out;
}

std::string error_of(const std::string& vocab, const std::string& merges) {
  try {
    ClipTokenizer::from_vocab_and_merges(vocab, merges, "v.json", "m.txt");
  } catch (const Error& e) {
    CHECK(e.code() == Code::Corrupt);
    return e.message();
  }
  return "no error";
}

const std::string kSpecial = R"("<|startoftext|>":98,"<|endoftext|>":99)";

}  // namespace

TEST_CASE("text is cut into contractions, letters, single digits and other runs") {
  CHECK(words("The CAT's 12 don't...") == "the|cat|'s|1|2|don|'t|...|");
  CHECK(words("  a\t\n b\xc2\xa0"
              "c  ") == "a|b|c|");
  CHECK(words("a_b-c") == "a|_|b|-|c|");
  CHECK(words("x.'s") == "x|.'|s|");
  CHECK(words("'single'") == "'s|ingle|'|");
  CHECK(words("\xe7\x8c\xab\xe7\x8a\xac") == "\xe7\x8c\xab\xe7\x8a\xac|");
  CHECK(words("\xc2\xbd\xc2\xb2") == "\xc2\xbd|\xc2\xb2|");
  CHECK(words("") == "");
}

TEST_CASE("composed and decomposed letters give the same ids") {
  CHECK(clip().encode("caf\xc3\xa9") == clip().encode("cafe\xcc\x81"));
}

TEST_CASE("special tokens are found in the text, in any case") {
  CHECK(words("a<|endoftext|>b") == "a|<|endoftext|>|b|");
  CHECK(clip().encode("<|STARTOFTEXT|>") == std::vector<int64_t>{1998});
}

TEST_CASE("words are merged as by merging the lowest pair again and again") {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    std::string word;
    for (int i = int(random() % 14); i >= 0; --i) word.push_back("aeinorstlghdc"[random() % 13]);
    CAPTURE(word);
    CHECK(clip().encode(word) == merged_one_by_one(word));
  }
}

TEST_CASE("a repeated word gives the same ids every time") {
  auto once = clip().encode("glowing"), thrice = clip().encode("glowing glowing glowing");
  REQUIRE(thrice.size() == 3 * once.size());
  for (size_t i = 0; i < thrice.size(); ++i) CHECK(thrice[i] == once[i % once.size()]);
}

TEST_CASE("start and end ids come from the vocabulary") {
  CHECK(clip().start_id() == 1998);
  CHECK(clip().end_id() == 1999);
  CHECK(clip().largest_id() == 1999);
}

TEST_CASE("a tokenizer.json of the same vocabulary gives the same ids") {
  json file;
  file["added_tokens"] = {{{"id", 1998}, {"content", "<|startoftext|>"}, {"normalized", true}},
                          {{"id", 1999}, {"content", "<|endoftext|>"}, {"normalized", false}}};
  file["normalizer"] = {{"type", "Sequence"}, {"normalizers", {{{"type", "NFC"}}, {{"type", "Lowercase"}}}}};
  file["pre_tokenizer"] = {{"type", "ByteLevel"}};
  file["model"] = {{"type", "BPE"}, {"unk_token", "<|endoftext|>"}, {"end_of_word_suffix", "</w>"}};
  file["model"]["continuing_subword_prefix"] = "";
  file["model"]["vocab"] = json::parse(files().vocab_json);
  auto strings = json::array(), pairs = json::array();
  for (const auto& [first, second] : read_merges(files().merges_txt, "merges.txt")) {
    strings.push_back(first + " " + second);
    pairs.push_back({first, second});
  }
  for (const json& merges : {strings, pairs}) {
    file["model"]["merges"] = merges;
    auto other = ClipTokenizer::from_tokenizer_json(file.dump());
    const char* text = "A glowing Castle, 35mm <|startoftext|> don't caf\xc3\xa9";
    CHECK(other.encode(text) == clip().encode(text));
    CHECK(other.end_id() == 1999);
  }
}

TEST_CASE("bytes that the vocabulary lacks become the end id") {
  auto small = ClipTokenizer::from_vocab_and_merges("{\"a\":0,\"b</w>\":1," + kSpecial + "}", "");
  CHECK(small.encode("ab ba") == std::vector<int64_t>{0, 1, 99, 99});
}

TEST_CASE("damaged vocabularies are refused with the file's name and the reason") {
  CHECK(error_of("{\"a\":0,", "").starts_with("v.json: not valid JSON, from byte 7 of 7"));
  CHECK(error_of("[1,2]", "") == "v.json: not a vocab.json: expected an object of token and id");
  CHECK(error_of("{}", "") == "v.json: not a vocab.json: expected an object of token and id");
  CHECK(error_of("{\"a\":0}", "") == "v.json: not a CLIP vocabulary: it has no token '<|startoftext|>'");
  CHECK(error_of("{\"a\":\"b\"}", "") == "v.json: token 'a': expected its id, a whole number, found a text");
  CHECK(error_of("{\"a\":1.5}", "") == "v.json: token 'a': expected its id, a whole number, found a number with a fraction");
  CHECK(error_of("{\"a\":{\"b\":1}}", "") == "v.json: token 'a': expected its id, a whole number, found an object");
  CHECK(error_of("{\"a\":-1," + kSpecial + "}", "") == "v.json: token 'a' has the id -1; expected 0 to 16777215");
  CHECK(error_of("{\"a\":99999999999," + kSpecial + "}", "") ==
        "v.json: token 'a' has the id 99999999999; expected 0 to 16777215");
  CHECK(error_of("{\"a\":1e999}", "").starts_with("v.json: not valid JSON"));
  CHECK(error_of("{\"a\":98," + kSpecial + "}", "") == "v.json: the id 98 is given twice, the second time to '<|startoftext|>'");
  CHECK(error_of("{\"a\":1,\"a\":2," + kSpecial + "}", "") == "v.json: token 'a' is there twice");
  const std::string ab = "{\"a\":0,\"b\":1,\"ab\":2," + kSpecial + "}";
  CHECK(error_of(ab, "#version: 0.2\na b\n") == "no error");
  CHECK(error_of(ab, "a b\na b\n") == "m.txt: merge 2 of 'a' and 'b' is there twice");
  CHECK(error_of(ab, "a\n") == "m.txt: line 1: expected two tokens with one blank between, found 'a'");
  CHECK(error_of(ab, "a b c\n") == "m.txt: line 1: expected two tokens with one blank between, found 'a b c'");
  CHECK(error_of(ab, "b a\n") ==
        "m.txt: merge 1 is of 'b' and 'a', but the vocabulary has no token 'ba'; the files do not belong together");
}

TEST_CASE("a tokenizer.json of another model is refused") {
  CHECK_THROWS_WITH_AS(ClipTokenizer::from_tokenizer_json(synthetic_t5_vocabulary(200), "t.json"),
                       doctest::Contains("t.json: not CLIP's tokenizer: expected a BPE model"), Error);
  CHECK_THROWS_WITH_AS(ClipTokenizer::from_tokenizer_json("{}", "t.json"), doctest::Contains("t.json: not a tokenizer.json"),
                       Error);
  CHECK_THROWS_AS(ClipTokenizer::from_tokenizer_json(std::string(100000, '['), "t.json"), Error);
}
