#pragma once
#include <string>
#include <string_view>

#include "text/added_tokens.h"
#include "text/byte_trie.h"
#include "text/normalizer.h"
#include "text/tokenizer.h"

namespace sinter {

/// T5's tokenizer: SentencePiece's unigram model. Of all ways to cut the text into pieces of the vocabulary, the most probable
/// one; characters that no piece covers become the unknown id, one for each run. t5_tokenizer_test.cpp compares golden ids.
class T5Tokenizer final : public Tokenizer {
 public:
  /// From the text of tokenizer.json, which errors call `name`.
  static T5Tokenizer from_tokenizer_json(std::string_view json, const std::string& name = "tokenizer.json");

  std::vector<int64_t> encode(std::string_view text) const override;
  std::optional<int64_t> start_id() const override { return {}; }
  int64_t end_id() const override { return end_id_; }
  int64_t largest_id() const override { return largest_id_; }

 private:
  T5Tokenizer(TokenizerJson file, const std::string& name);
  void read_pieces(const TokenizerJson& file, const std::string& name);
  void read_pre_tokenizer(const TokenizerJson& file, const std::string& name);

  struct Best {
    double score;
    int32_t begin, id;
  };
  /// Blanks become `blank_`, words are cut, each is encoded; `first`: the text begins here.
  void encode_part(std::string_view text, bool first, std::vector<Best>& best, std::vector<int64_t>& ids) const;
  void encode_words(std::string_view text, bool first, std::vector<Best>& best, std::vector<int64_t>& ids) const;
  void encode_word(std::string_view word, std::vector<Best>& best, std::vector<int64_t>& ids) const;

  Normalizer normalizer_;
  AddedTokens raw_, normalized_;
  ByteTrie pieces_;
  std::vector<double> scores_;  // by id
  double unknown_score_ = 0;
  int64_t unknown_id_ = 0, end_id_ = 0, largest_id_ = 0;
  std::string blank_;  // what stands for a blank, usually U+2581
  enum class Prepend { First, Always, Never } prepend_ = Prepend::First;
  bool cut_at_blanks_ = true, drop_white_space_ = false;
};

}  // namespace sinter
