#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/added_tokens.h"

namespace sinter {

/// One step of a tokenizer.json's normaliser; `type` is the file's word for it.
struct NormalizerStep {
  std::string type;
  std::string charsmap;          ///< Precompiled: base64
  std::string pattern, content;  ///< Replace
  bool regular_expression = false;
  bool strip_left = false, strip_right = false;  ///< Strip
};

/// One step of a tokenizer.json's pre-tokeniser.
struct PreTokenizerStep {
  std::string type;
  std::string replacement;  ///< Metaspace: what stands for a blank
  std::string prepend;      ///< Metaspace: "first", "always" or "never"
  bool split = true;        ///< Metaspace: cut before each replacement
};

using TokenIds = std::vector<std::pair<std::string, int64_t>>;

/// What a Hugging Face tokenizer.json holds, as far as our tokenizers read it, in the file's order.
struct TokenizerJson {
  std::string model_type;  ///< "BPE", "Unigram", ...
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  std::vector<PreTokenizerStep> pre_tokenizer;
  TokenIds ids;                                             ///< BPE
  std::vector<std::pair<std::string, std::string>> merges;  ///< BPE, first merge first
  std::string end_of_word_suffix, subword_prefix;           ///< BPE
  std::vector<std::pair<std::string, double>> pieces;       ///< Unigram: piece and log probability; the index is the id
  std::optional<int64_t> unknown_id;                        ///< Unigram
  std::string unknown_token;                                ///< BPE
  bool byte_fallback = false;
};

/// `name` is what errors call the file. Code::Corrupt for anything that is not of that form, Code::Unsupported for what we
/// know but do not read.
TokenizerJson read_tokenizer_json(std::string_view json, const std::string& name);
/// A vocab.json: an object of token and id.
TokenIds read_vocab_json(std::string_view json, const std::string& name);
/// A merges.txt: two tokens a line, first merge first, after an optional "#version" line.
std::vector<std::pair<std::string, std::string>> read_merges(std::string_view text, const std::string& name);

}  // namespace sinter
