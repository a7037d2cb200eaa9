#include "text/synthetic_vocabulary.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "base/error.h"
#include "base/file.h"
#include "text/byte_pair_encoding.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace sinter {
namespace fs = std::filesystem;
namespace {

// Commonest first; the place in the list serves as frequency.
constexpr std::string_view kWords =
    "a the of in and with on at by to from an for over under into near behind photo picture painting drawing portrait landscape "
    "detailed light dark bright soft warm cold red green blue yellow orange purple white black golden silver small large tiny "
    "huge "
    "old young new ancient modern beautiful quiet wild calm misty sunny rainy snowy cat dog fox bird horse wolf bear fish dragon "
    "robot woman man child girl boy king queen knight house castle tower bridge street city village forest tree flower garden "
    "field "
    "mountain hill river lake sea ocean beach island desert sky cloud star moon sun night day morning evening sunset sunrise "
    "dawn "
    "winter summer spring autumn snow rain fire water stone wood glass metal paper shadow mirror window door table chair lamp "
    "book "
    "boat ship train car bicycle plane machine clock crown sword mask dress coat hat glasses face eye hand hair smile style "
    "colour "
    "color texture pattern shape line surface background foreground view angle close wide shot lens focus depth film grain "
    "camera "
    "digital watercolor oil pencil ink sketch poster cover illustration masterpiece best quality high low resolution sharp "
    "blurry "
    "cinematic dramatic volumetric realistic abstract minimal ornate intricate glowing shining floating flying running sitting "
    "standing walking looking holding wearing painted carved broken hidden lost empty full deep long short tall round square one "
    "two "
    "three four five many few very more most less not no very highly award winning contest trending studio lighting golden hour "
    "reflection reflections fog mist dust smoke spark storm lightning thunder wave waterfall valley cliff cave ruin temple "
    "market "
    "kitchen library workshop harbor harbour station school church palace farm barn mill path road field meadow pond stream "
    "swamp "
    "jungle savanna tundra glacier volcano crater planet galaxy nebula comet rocket satellite astronaut";

std::vector<std::string> words() {
  std::vector<std::string> out;
  for (size_t begin = 0; begin < kWords.size();) {
    size_t end = std::min(kWords.find(' ', begin), kWords.size());
    std::string word(kWords.substr(begin, end - begin));
    if (std::find(out.begin(), out.end(), word) == out.end()) out.push_back(word);
    begin = end + 1;
  }
  return out;
}

struct WeighedWord {
  std::vector<std::string> symbols;
  double weight;
};

/// Merges the pair wherever it occurs in the word.
void merge(WeighedWord& word, const std::pair<std::string, std::string>& pair) {
  std::vector<std::string> merged;
  for (size_t i = 0; i < word.symbols.size(); ++i) {
    bool here = i + 1 < word.symbols.size() && word.symbols[i] == pair.first && word.symbols[i + 1] == pair.second;
    merged.push_back(here ? pair.first + pair.second : word.symbols[i]);
    if (here) ++i;
  }
  word.symbols = std::move(merged);
}

/// Learns at most `limit` merges, the pair of greatest weight first. Only merges that make a token not made before.
BytePairEncoding::Merges learn_merges(size_t limit) {
  std::vector<WeighedWord> corpus;
  for (const std::string& text : words()) {
    WeighedWord word{{}, 1.0 / (10.0 + double(corpus.size()))};
    for (char c : text) word.symbols.emplace_back(1, c);
    word.symbols.back() += "</w>";
    corpus.push_back(std::move(word));
  }
  BytePairEncoding::Merges merges;
  std::set<std::string> made;
  while (merges.size() < limit) {
    std::map<std::pair<std::string, std::string>, double> weights;
    for (const WeighedWord& word : corpus)
      for (size_t i = 0; i + 1 < word.symbols.size(); ++i) weights[{word.symbols[i], word.symbols[i + 1]}] += word.weight;
    std::erase_if(weights, [&](const auto& entry) { return made.contains(entry.first.first + entry.first.second); });
    if (weights.empty()) break;
    auto best =
        std::max_element(weights.begin(), weights.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    merges.push_back(best->first);
    made.insert(best->first.first + best->first.second);
    for (WeighedWord& word : corpus) merge(word, best->first);
  }
  return merges;
}

void make_folder(const fs::path& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(Code::Io, "{}: the folder cannot be made: {}", folder.string(), error.message());
}

}  // namespace

SyntheticClipVocabulary synthetic_clip_vocabulary(int64_t size) {
  constexpr int64_t kBytes = 512, kSpecial = 2;
  constexpr size_t kMostMerges = 600;
  if (size < kBytes + kSpecial || size > kLargestTokenId)
    fail(Code::InvalidArgument, "a synthetic CLIP vocabulary of {} ids; expected {} to {}", size, kBytes + kSpecial,
         kLargestTokenId);
  auto ids = nlohmann::ordered_json::object();
  auto characters = byte_characters();
  int64_t next = 0;
  for (const char* ending : {"", "</w>"})
    for (unsigned char byte : byte_order()) {
      std::string text;
      append_utf8(text, characters[byte]);
      ids[text + ending] = next++;
    }
  SyntheticClipVocabulary out;
  out.merges_txt = "#version: 0.2\n";
  for (const auto& [first, second] : learn_merges(std::min(kMostMerges, size_t(size - kBytes - kSpecial)))) {
    ids[first + second] = next++;
    out.merges_txt += first + " " + second + "\n";
  }
  ids["<|startoftext|>"] = size - 2;
  ids["<|endoftext|>"] = size - 1;
  out.vocab_json = ids.dump();
  return out;
}

std::string synthetic_t5_vocabulary(int64_t size) {
  using nlohmann::ordered_json;
  constexpr int64_t kLeast = 100;
  if (size < kLeast || size > kLargestTokenId)
    fail(Code::InvalidArgument, "a synthetic T5 vocabulary of {} ids; expected {} to {}", size, kLeast, kLargestTokenId);
  const std::string blank = "\xe2\x96\x81";
  auto pieces = ordered_json::array();
  std::set<std::string> known;
  auto add = [&](const std::string& text, double score) {
    if (int64_t(pieces.size()) < size && known.insert(text).second) pieces.push_back({text, score});
  };
  for (const char* special : {"<pad>", "</s>", "<unk>"}) add(special, 0);
  add(blank, -3);
  for (char c = '!'; c <= '~'; ++c) add(std::string(1, c), c >= 'a' && c <= 'z' ? -6 : -8);
  double rank = 0;
  for (const std::string& word : words()) add(blank + word, -4 - std::log(1 + rank++));
  for (const auto& [first, second] : learn_merges(300)) {
    std::string text = first + second;
    if (text.ends_with("</w>")) text.resize(text.size() - 4);
    add(text, -7 - std::log(1 + rank++));
  }
  auto added = ordered_json::array();
  for (int id = 0; id < 3; ++id)
    added.push_back({{"id", id},
                     {"content", pieces[size_t(id)][0]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  auto line_end = ordered_json{{"type", "Replace"}, {"pattern", {{"String", "\n"}}}, {"content", " "}};
  auto normalizers = ordered_json::array({line_end,
                                          {{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}},
                                          {{"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", blank}}});
  ordered_json file = {
      {"version", "1.0"},
      {"added_tokens", added},
      {"normalizer", {{"type", "Sequence"}, {"normalizers", normalizers}}},
      {"pre_tokenizer", {{"type", "Metaspace"}, {"replacement", blank}, {"prepend_scheme", "first"}}},
      {"model", {{"type", "Unigram"}, {"unk_id", 2}, {"vocab", pieces}, {"byte_fallback", false}}},
  };
  return file.dump(1);
}

void write_clip_vocabulary(const fs::path& folder, int64_t size) {
  SyntheticClipVocabulary vocabulary = synthetic_clip_vocabulary(size);
  make_folder(folder);
  write_atomically(folder / "vocab.json", vocabulary.vocab_json);
  write_atomically(folder / "merges.txt", vocabulary.merges_txt);
}

void write_t5_vocabulary(const fs::path& folder, int64_t size) {
  std::string json = synthetic_t5_vocabulary(size);
  make_folder(folder);
  write_atomically(folder / "tokenizer.json", json);
}

}  // namespace sinter
