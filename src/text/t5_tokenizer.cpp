#include "text/t5_tokenizer.h"

#include <algorithm>

#include "base/error.h"
#include "text/unicode.h"

namespace sinter {

T5Tokenizer T5Tokenizer::from_tokenizer_json(std::string_view json, const std::string& name) {
  return T5Tokenizer(read_tokenizer_json(json, name), name);
}

T5Tokenizer::T5Tokenizer(TokenizerJson file, const std::string& name) : normalizer_(file.normalizer, name) {
  if (file.model_type != "Unigram")
    fail(Code::Unsupported, "{}: not T5's tokenizer: expected a Unigram model, found {}", name,
         file.model_type.empty() ? "no type" : shortened(file.model_type));
  if (file.byte_fallback)
    fail(Code::Unsupported, "{}: its model has \"byte_fallback\", which T5's has not and we do not read", name);
  read_pieces(file, name);
  read_pre_tokenizer(file, name);
  std::vector<AddedToken> raw, normalized;
  for (AddedToken& token : file.added) {
    largest_id_ = std::max(largest_id_, token.id);
    if (token.normalized) token.content = normalizer_.apply(token.content);
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_ = AddedTokens(std::move(raw));
  normalized_ = AddedTokens(std::move(normalized));
}

void T5Tokenizer::read_pieces(const TokenizerJson& file, const std::string& name) {
  if (file.pieces.empty()) fail(Code::Corrupt, "{}: its model has no pieces (\"vocab\")", name);
  if (int64_t(file.pieces.size()) > kLargestTokenId + 1)
    fail(Code::Corrupt, "{}: {} pieces; expected at most {}", name, file.pieces.size(), kLargestTokenId + 1);
  if (!file.unknown_id || *file.unknown_id >= int64_t(file.pieces.size()))
    fail(Code::Corrupt, "{}: \"unk_id\" is {}; expected the id of one of the {} pieces", name,
         file.unknown_id ? std::to_string(*file.unknown_id) : "missing", file.pieces.size());
  unknown_id_ = *file.unknown_id;
  end_id_ = -1;
  size_t bytes = 0;
  for (const auto& entry : file.pieces) bytes += entry.first.size();
  pieces_.reserve(bytes);
  scores_.reserve(file.pieces.size());
  for (const auto& [text, score] : file.pieces) {
    auto id = int32_t(scores_.size());
    if (text == "</s>") end_id_ = id;
    // An empty piece would make paths of no length; the trie never finds it.
    if (!text.empty() && pieces_.insert(text, id) != ByteTrie::kNone)
      fail(Code::Corrupt, "{}: the piece '{}' is there twice, the second time with id {}", name, shortened(text), id);
    scores_.push_back(score);
  }
  for (const AddedToken& token : file.added)
    if (token.content == "</s>") end_id_ = token.id;
  if (end_id_ < 0) fail(Code::Corrupt, "{}: not T5's tokenizer: it has no piece '</s>'", name);
  constexpr double kUnknownPenalty = 10;
  unknown_score_ = *std::min_element(scores_.begin(), scores_.end()) - kUnknownPenalty;
  largest_id_ = int64_t(scores_.size()) - 1;
}

void T5Tokenizer::read_pre_tokenizer(const TokenizerJson& file, const std::string& name) {
  for (const PreTokenizerStep& step : file.pre_tokenizer) {
    if (step.type == "WhitespaceSplit" && blank_.empty()) {
      drop_white_space_ = true;
      continue;
    }
    if (step.type != "Metaspace" || step.replacement.empty() || step.replacement.size() > 16 || !blank_.empty())
      fail(Code::Unsupported,
           "{}: the pre-tokenizer step '{}' is not one that we read here (Metaspace, after WhitespaceSplit or alone)", name,
           shortened(step.type));
    blank_ = step.replacement;
    cut_at_blanks_ = step.split;
    if (step.prepend != "first" && step.prepend != "always" && step.prepend != "never")
      fail(Code::Corrupt, "{}: \"prepend_scheme\" is '{}'; expected first, always or never", name, shortened(step.prepend));
    prepend_ = step.prepend == "first" ? Prepend::First : step.prepend == "always" ? Prepend::Always : Prepend::Never;
  }
  if (blank_.empty()) fail(Code::Unsupported, "{}: it has no Metaspace pre-tokenizer, which T5's has", name);
}

std::vector<int64_t> T5Tokenizer::encode(std::string_view text) const {
  require_utf8(text, "the text");
  std::vector<int64_t> ids;
  std::vector<Best> best;
  for (const TextPart& raw : raw_.split(text)) {
    if (raw.id) {
      ids.push_back(*raw.id);
      continue;
    }
    std::string normal = normalizer_.apply(raw.text);
    for (const TextPart& part : normalized_.split(normal)) {
      if (part.id)
        ids.push_back(*part.id);
      else
        encode_part(part.text, raw.begin == 0 && part.begin == 0, best, ids);
    }
  }
  return ids;
}

void T5Tokenizer::encode_part(std::string_view text, bool first, std::vector<Best>& best, std::vector<int64_t>& ids) const {
  if (!drop_white_space_) return encode_words(text, first, best, ids);
  for (size_t begin = 0, i = 0; i <= text.size();) {
    size_t end = i;
    bool blank = i == text.size() || is_white_space(take_code_point(text, i));
    if (!blank) continue;
    if (end > begin) encode_words(text.substr(begin, end - begin), first && begin == 0, best, ids);
    if (end == text.size()) break;
    begin = i;
  }
}

void T5Tokenizer::encode_words(std::string_view text, bool first, std::vector<Best>& best, std::vector<int64_t>& ids) const {
  std::string words;
  words.reserve(text.size() + text.size() / 2 + blank_.size());
  bool wanted = prepend_ == Prepend::Always || (prepend_ == Prepend::First && first);
  if (wanted && !text.empty() && text[0] != ' ' && !text.starts_with(blank_)) words = blank_;
  for (char c : text) c == ' ' ? words.append(blank_) : words.append(1, c);
  if (!cut_at_blanks_) return encode_word(words, best, ids);
  for (size_t begin = 0; begin < words.size();) {
    size_t end = std::min(words.find(blank_, begin + 1), words.size());
    encode_word(std::string_view(words).substr(begin, end - begin), best, ids);
    begin = end;
  }
}

/// Viterbi's algorithm over the places between bytes: best[i] is the most probable way to cut the first i bytes.
void T5Tokenizer::encode_word(std::string_view word, std::vector<Best>& best, std::vector<int64_t>& ids) const {
  constexpr int32_t kNowhere = -1;
  best.assign(word.size() + 1, {0, kNowhere, 0});
  for (size_t begin = 0, next = 0; begin < word.size(); begin = next) {
    take_code_point(word, next);
    const double score = best[begin].score;
    auto offer = [&](size_t end, double total, int32_t id) {
      if (best[end].begin == kNowhere || total > best[end].score) best[end] = {total, int32_t(begin), id};
    };
    bool covered = false;  // this character is a piece by itself
    pieces_.prefixes(word.substr(begin), [&](size_t length, int32_t id) {
      offer(begin + length, score + scores_[size_t(id)], id);
      covered = covered || begin + length == next;
    });
    if (!covered) offer(next, score + unknown_score_, int32_t(unknown_id_));
  }
  size_t first = ids.size();
  for (auto end = int32_t(word.size()); end > 0; end = best[size_t(end)].begin) {
    int64_t id = best[size_t(end)].id;
    bool one_run = id == unknown_id_ && ids.size() > first && ids.back() == unknown_id_;
    if (!one_run) ids.push_back(id);
  }
  std::reverse(ids.begin() + ptrdiff_t(first), ids.end());
}

}  // namespace sinter
