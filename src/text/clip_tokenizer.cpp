#include "text/clip_tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "base/error.h"
#include "text/unicode.h"

namespace sinter {
namespace {

constexpr const char* kStart = "<|startoftext|>";
constexpr const char* kEnd = "<|endoftext|>";

std::string normalize(std::string_view text) {
  std::u32string composed = canonical_composition(decode_utf8(text));
  std::string out;
  out.reserve(text.size());
  bool after_blank = false;
  for (char32_t c : composed) {
    bool blank = is_white_space(c);
    if (blank && !after_blank) out.push_back(' ');
    if (!blank) append_lower(out, c);
    after_blank = blank;
  }
  return out;
}

/// The length of 's 't 're 've 'm 'll or 'd at the start of `text`, else 0.
size_t contraction(std::string_view text) {
  for (std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"})
    if (text.starts_with(ending)) return ending.size();
  return 0;
}

enum class Class { Blank, Letter, Number, Other };

Class class_of(char32_t c) {
  if (is_white_space(c)) return Class::Blank;
  if (is_letter(c)) return Class::Letter;
  return is_number(c) ? Class::Number : Class::Other;
}

/// Calls found(word) for each contraction, run of letters, single number and run of anything else but blanks.
template <class Found>
void each_word(std::string_view text, Found&& found) {
  for (size_t begin = 0; begin < text.size();) {
    size_t end = begin + contraction(text.substr(begin));
    if (end == begin) {
      Class kind = class_of(take_code_point(text, end));
      for (size_t next = end; kind != Class::Number && next < text.size(); end = next)
        if (class_of(take_code_point(text, next)) != kind) break;
      if (kind != Class::Blank) found(text.substr(begin, end - begin));
    } else {
      found(text.substr(begin, end - begin));
    }
    begin = end;
  }
}

int64_t required_id(const TokenIds& ids, const std::vector<AddedToken>& added, const std::string& text, const std::string& name) {
  for (const AddedToken& token : added)
    if (token.content == text) return token.id;
  for (const auto& [token, id] : ids)
    if (token == text) return id;
  fail(Code::Corrupt, "{}: not a CLIP vocabulary: it has no token '{}'", name, shortened(text));
}

}  // namespace

ClipTokenizer::ClipTokenizer(const TokenIds& ids, const BytePairEncoding::Merges& merges, std::vector<AddedToken> added,
                             const std::string& unknown, const std::string& name, const std::string& merges_name)
    : words_(ids, merges, name, merges_name) {
  start_id_ = required_id(ids, added, kStart, name);
  end_id_ = required_id(ids, added, kEnd, name);
  unknown_id_ = unknown.empty() ? end_id_ : required_id(ids, added, unknown, name);
  largest_id_ = words_.largest_id();
  std::vector<AddedToken> raw, normalized;
  for (AddedToken& token : added) {
    largest_id_ = std::max(largest_id_, token.id);
    if (token.normalized) token.content = normalize(token.content);
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_ = AddedTokens(std::move(raw));
  normalized_ = AddedTokens(std::move(normalized));
}

ClipTokenizer ClipTokenizer::from_vocab_and_merges(std::string_view vocab_json, std::string_view merges,
                                                   const std::string& vocab_name, const std::string& merges_name) {
  TokenIds ids = read_vocab_json(vocab_json, vocab_name);
  std::vector<AddedToken> added;
  for (const char* text : {kStart, kEnd}) added.push_back({text, required_id(ids, {}, text, vocab_name), false, false, true});
  return ClipTokenizer(ids, read_merges(merges, merges_name), std::move(added), kEnd, vocab_name, merges_name);
}

ClipTokenizer ClipTokenizer::from_tokenizer_json(std::string_view json, const std::string& name) {
  TokenizerJson file = read_tokenizer_json(json, name);
  if (file.model_type != "BPE" || file.end_of_word_suffix != "</w>" || !file.subword_prefix.empty())
    fail(Code::Unsupported, "{}: not CLIP's tokenizer: expected a BPE model with the end of word \"</w>\", found {} with \"{}\"",
         name, file.model_type.empty() ? "no type" : shortened(file.model_type), shortened(file.end_of_word_suffix));
  return ClipTokenizer(file.ids, file.merges, std::move(file.added), file.unknown_token, name, name);
}

std::vector<int64_t> ClipTokenizer::encode(std::string_view text) const {
  struct Range {
    size_t begin, count;
  };
  std::vector<int64_t> ids;
  BytePairEncoding::Scratch scratch;
  for (const TextPart& raw : raw_.split(text)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    std::string normal = normalize(raw.text);
    std::unordered_map<std::string_view, Range> seen;  // prompts repeat words
    for (const TextPart& part : normalized_.split(normal)) {
      if (part.id) {
        ids.push_back(*part.id);
        continue;
      }
      each_word(part.text, [&](std::string_view word) {
        auto [place, fresh] = seen.try_emplace(word, Range{ids.size(), 0});
        if (fresh) {
          words_.encode(word, unknown_id_, scratch, ids);
          place->second.count = ids.size() - place->second.begin;
          return;
        }
        for (size_t i = 0; i < place->second.count; ++i) ids.push_back(ids[place->second.begin + i]);
      });
    }
  }
  return ids;
}

}  // namespace sinter
