#pragma once
#include <string>
#include <string_view>

#include "text/added_tokens.h"
#include "text/byte_pair_encoding.h"
#include "text/tokenizer.h"

namespace sinter {

/// CLIP's tokenizer: NFC, white space to single blanks, lower case, words by CLIP's pattern, byte-level BPE. It computes what the
/// current Hugging Face tokenizers compute; clip_tokenizer_test.cpp compares golden ids.
class ClipTokenizer final : public Tokenizer {
 public:
  /// From the texts of vocab.json and merges.txt; errors name the files so.
  static ClipTokenizer from_vocab_and_merges(std::string_view vocab_json, std::string_view merges,
                                             const std::string& vocab_name = "vocab.json",
                                             const std::string& merges_name = "merges.txt");
  static ClipTokenizer from_tokenizer_json(std::string_view json, const std::string& name = "tokenizer.json");

  std::vector<int64_t> encode(std::string_view text) const override;
  std::optional<int64_t> start_id() const override { return start_id_; }
  int64_t end_id() const override { return end_id_; }
  int64_t largest_id() const override { return largest_id_; }

 private:
  ClipTokenizer(const TokenIds& ids, const BytePairEncoding::Merges& merges, std::vector<AddedToken> added,
                const std::string& unknown, const std::string& ids_name, const std::string& merges_name);

  BytePairEncoding words_;
  AddedTokens raw_, normalized_;
  int64_t start_id_ = 0, end_id_ = 0, unknown_id_ = 0, largest_id_ = 0;
};

}  // namespace sinter
