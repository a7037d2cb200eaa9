#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "golden/golden_reader.h"
#include "text/prompt.h"
#include "text/vocabulary.h"

namespace sinter::golden {
namespace {

using nlohmann::json;
using Ids = std::vector<std::vector<int64_t>>;

constexpr double kWeightTolerance = 1e-6;
constexpr double kWrong = std::numeric_limits<double>::infinity();

Ids collect(const TokenizedPrompt& prompt, int64_t Token::*member) {
  Ids out;
  for (const auto& chunk : prompt.chunks) {
    out.emplace_back();
    for (const Token& token : chunk) out.back().push_back(token.*member);
  }
  return out;
}

Ids ids_of(const json& chunks) {
  Ids out;
  for (const json& chunk : chunks) out.push_back(chunk.at("ids").get<std::vector<int64_t>>());
  return out;
}

double weight_difference(const std::vector<Token>& chunk, const std::vector<double>& weights) {
  if (weights.size() != chunk.size()) return kWrong;
  double largest = 0;
  for (size_t i = 0; i < chunk.size(); ++i) largest = std::max(largest, std::abs(weights[i] - double(chunk[i].weight)));
  return largest;
}

double weight_difference(const TokenizedPrompt& prompt, const json& chunks) {
  double largest = prompt.chunks.size() == chunks.size() ? 0 : kWrong;
  for (size_t c = 0; c < chunks.size() && std::isfinite(largest); ++c)
    largest = std::max(largest, weight_difference(prompt.chunks[c], chunks[c].at("weights").get<std::vector<double>>()));
  return largest;
}

/// Ids and words must be equal; the error of a case is that of its weights.
class PromptCheck {
 public:
  PromptCheck(const json& entry, std::string number, GoldenReport& report)
      : entry_(entry), text_(entry.at("prompt")), number_(std::move(number)), report_(report) {}

  void clip_l(const Tokenizer& tokenizer) {
    TokenizedPrompt prompt = tokenize_prompt(text_, tokenizer, clip_l_rules(tokenizer));
    Ids ids = collect(prompt, &Token::id);
    const json& expected = entry_.at("sd1_l");
    // Older tokenizers cut some scripts differently, and the reference may be installed with either.
    bool alternative = entry_.contains("sd1_l_ids_alternative") && ids == entry_["sd1_l_ids_alternative"].get<Ids>();
    bool same = ids == ids_of(expected) && collect(prompt, &Token::word) == entry_.at("sd1_l_word_ids").get<Ids>();
    compare("clip_l", same || alternative, alternative ? 0 : weight_difference(prompt, expected));
  }

  void clip_g(const Tokenizer& tokenizer) {
    TokenizedPrompt prompt = tokenize_prompt(text_, tokenizer, clip_g_rules());
    const json& expected = entry_.at("sdxl_g");
    compare("clip_g", collect(prompt, &Token::id) == ids_of(expected), weight_difference(prompt, entry_.at("sd1_l")));
  }

  void t5(const Tokenizer& tokenizer) {
    TokenizedPrompt prompt = tokenize_prompt(text_, tokenizer, t5_rules());
    const json& expected = entry_.at("t5");
    auto ids = expected.at("ids").get<std::vector<int64_t>>();
    auto weights = expected.at("weights").get<std::vector<double>>();
    ids.resize(expected.at("padded_length"), 0);
    weights.resize(ids.size(), 1);
    bool same = collect(prompt, &Token::id) == Ids{ids};
    compare("t5", same, same ? weight_difference(prompt.chunks[0], weights) : kWrong);
  }

  void report_unknown() {
    for (auto& [key, value] : entry_.items())
      if (key != "prompt" && key != "sd1_l" && key != "sd1_l_word_ids" && key != "sd1_l_ids_alternative" && key != "sdxl_g" &&
          key != "t5")
        report_.fail(key + "/" + number_, "unknown case");
  }

 private:
  void compare(const char* name, bool same_ids, double difference) {
    if (same_ids)
      report_.compare(std::string(name) + "/" + number_, difference, kWeightTolerance);
    else
      report_.fail(std::string(name) + "/" + number_, "other token ids for \"" + text_ + "\"");
  }

  const json& entry_;
  std::string text_, number_;
  GoldenReport& report_;
};

}  // namespace

void check_prompts(const std::string& directory, GoldenReport& report) {
  const json content = json::parse(read_file(directory + "/prompts.json"));
  ClipTokenizer clip =
      load_clip_tokenizer(find_vocabulary(VocabularyKind::Clip, {.given = std::filesystem::path(directory) / "tokenizers/clip"}));
  T5Tokenizer t5 =
      load_t5_tokenizer(find_vocabulary(VocabularyKind::T5, {.given = std::filesystem::path(directory) / "tokenizers/t5"}));
  int number = 0;
  for (const json& entry : content.at("prompts")) {
    PromptCheck check(entry, std::to_string(number++), report);
    guarded("prompt " + std::to_string(number - 1), report, [&] {
      check.clip_l(clip);
      check.clip_g(clip);
      check.t5(t5);
      check.report_unknown();
    });
  }
}

}  // namespace sinter::golden
