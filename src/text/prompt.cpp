#include "text/prompt.h"

#include <charconv>
#include <cmath>
#include <limits>
#include <span>

#include "base/error.h"
#include "text/unicode.h"

namespace sinter {
namespace {

// Escaped parentheses while weights are read: bytes that no UTF-8 text contains.
constexpr char kOpen = char(0xfe), kClose = char(0xff);

std::string hide_escaped(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    bool escaped = text[i] == '\\' && i + 1 < text.size() && (text[i + 1] == '(' || text[i + 1] == ')');
    out.push_back(!escaped ? text[i] : text[++i] == '(' ? kOpen : kClose);
  }
  return out;
}

std::string show_escaped(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c == kOpen ? '(' : c == kClose ? ')' : c;
  return out;
}

/// The parts of one level: bracketed ones with their parentheses, and what lies between. A closing parenthesis too many counts
/// below zero, and as many opening ones after it are plain text: so does ComfyUI.
std::vector<std::string_view> level_parts(std::string_view text) {
  std::vector<std::string_view> parts;
  size_t begin = 0;
  int64_t depth = 0;
  auto cut = [&](size_t end) {
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end;
  };
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '(' && depth++ == 0) cut(i);
    if (text[i] == ')' && --depth == 0) cut(i + 1);
  }
  cut(text.size());
  return parts;
}

/// ASCII digits for decimal digits of any script, white space around removed; nothing where the text cannot be a number.
std::optional<std::string> plain_number(std::string_view text) {
  std::string out;
  bool ended = false, begun = false;
  for (size_t i = 0; i < text.size();) {
    char32_t c = take_code_point(text, i);
    if (is_white_space(c)) {
      ended = begun;
      continue;
    }
    if (ended) return {};
    begun = true;
    int digit = c < 0x80 ? -1 : digit_value(c);
    if (c >= 0x80 && digit < 0) return {};
    out.push_back(digit < 0 ? char(c) : char('0' + digit));
  }
  return out;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

/// Reads a number as Python's float() does: blanks around, underscores between digits, "inf" and "nan" in any case.
std::optional<double> read_weight(std::string_view text) {
  if (text.find_first_of("()\xfe\xff") != text.npos) return {};
  auto plain = plain_number(text);
  if (!plain) return {};
  std::string digits;
  for (size_t i = 0; i < plain->size(); ++i) {
    char c = (*plain)[i];
    if (c != '_') {
      digits.push_back(c >= 'A' && c <= 'Z' ? char(c + 32) : c);
    } else if (i == 0 || i + 1 == plain->size() || !is_digit((*plain)[i - 1]) || !is_digit((*plain)[i + 1])) {
      return {};
    }
  }
  std::string_view number = digits;
  double sign = 1;
  if (!number.empty() && (number[0] == '+' || number[0] == '-')) {
    sign = number[0] == '-' ? -1 : 1;
    number.remove_prefix(1);
  }
  if (number == "inf" || number == "infinity") return sign * std::numeric_limits<double>::infinity();
  if (number == "nan") return std::numeric_limits<double>::quiet_NaN();
  if (number.empty() || !(is_digit(number[0]) || number[0] == '.')) return {};
  double value = 0;
  auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), value);
  if (end != number.data() + number.size() || error == std::errc::invalid_argument) return {};
  if (error == std::errc::result_out_of_range)
    value = number.find("e-") != number.npos ? 0 : std::numeric_limits<double>::infinity();
  return sign * value;
}

void collect(std::string_view text, double weight, int depth, std::vector<WeightedText>& runs) {
  constexpr int kDeepest = 500;
  if (depth > kDeepest) fail(Code::InvalidArgument, "prompt: parentheses are nested deeper than {} levels", kDeepest);
  for (std::string_view part : level_parts(text)) {
    if (part.size() < 2 || part.front() != '(' || part.back() != ')') {
      runs.push_back({show_escaped(part), weight});
      continue;
    }
    std::string_view inner = part.substr(1, part.size() - 2);
    double inner_weight = weight * 1.1;
    size_t colon = inner.rfind(':');
    if (colon != inner.npos && colon > 0) {
      if (auto given = read_weight(inner.substr(colon + 1))) {
        inner_weight = *given;
        if (!(std::abs(inner_weight) <= double(std::numeric_limits<float>::max())))
          fail(Code::InvalidArgument, "prompt: the weight '{}' is not a finite number; use one like 1.2",
               shortened(inner.substr(colon + 1)));
        inner = inner.substr(0, colon);
      }
    }
    collect(inner, inner_weight, depth + 1, runs);
  }
}

constexpr std::string_view kEmbedding = "embedding:";

/// Cuts a run before each embedding that follows a blank or a line end, which is dropped.
std::vector<std::string> cut_at_embeddings(const std::string& text) {
  std::vector<std::string> pieces;
  size_t begin = 0;
  auto cut = [&](size_t end) {
    if (end > begin) pieces.push_back(text.substr(begin, end - begin));
  };
  for (size_t at = text.find(kEmbedding, 1); at != text.npos; at = text.find(kEmbedding, at + 1)) {
    if (text[at - 1] != ' ' && text[at - 1] != '\n') continue;
    cut(at - 1);
    begin = at;
  }
  cut(text.size());
  return pieces;
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    size_t begin = i;
    if (is_white_space(take_code_point(text, i))) {
      inside = false;
      continue;
    }
    if (!inside) words.emplace_back();
    words.back().append(text.substr(begin, i - begin));
    inside = true;
  }
  return words;
}

/// Turns runs of text into groups of tokens: what one run, or one embedding, consists of.
class Grouper {
 public:
  Grouper(const Tokenizer& tokenizer, const EmbeddingLookup& embeddings, TokenizedPrompt& out)
      : tokenizer_(tokenizer), embeddings_(embeddings), out_(out) {}

  std::vector<std::vector<Token>> groups;

  void add(const WeightedText& run) {
    auto weight = float(run.weight);
    for (const std::string& piece : cut_at_embeddings(run.text)) {
      bool named = embeddings_ && piece.starts_with(kEmbedding);
      std::string text = named ? add_embedding(piece.substr(kEmbedding.size()), weight) : piece;
      if (!text.empty()) add_text(text, weight);
    }
  }

 private:
  std::vector<Token>& next_group() {
    groups.emplace_back();
    return groups.back();
  }
  Token token(int64_t id, float weight, int64_t vector = -1) const { return {id, weight, int64_t(groups.size()), vector}; }

  void add_text(const std::string& text, float weight) {
    auto& group = next_group();
    for (int64_t id : tokenizer_.encode(text)) group.push_back(token(id, weight));
  }

  void add_vectors(const std::string& name, const Tensor& rows, float weight) {
    // A tensor without elements may claim any number of rows.
    if ((rows.rank() != 1 && rows.rank() != 2) || rows.count() == 0)
      fail(Code::Corrupt, "embedding '{}': expected a tensor [width] or [n, width], found {}", name, shape_text(rows.shape()));
    Tensor table = rows.rank() == 2 ? rows : rows.reshaped({1, rows.dim(0)});
    auto& group = next_group();
    for (int64_t i = 0; i < table.dim(0); ++i) {
      group.push_back(token(0, weight, int64_t(out_.vectors.size())));
      out_.vectors.push_back(table.rows(i, i + 1).reshaped({table.dim(1)}));
    }
  }

  /// Takes the name off the front of `text`, adds its vectors and gives what is left to read as text.
  std::string add_embedding(const std::string& text, float weight) {
    std::vector<std::string> words = words_of(text);
    if (words.empty()) {
      out_.not_found.push_back("");
      return "";
    }
    std::string name = words[0], rest;
    for (size_t i = 1; i < words.size(); ++i) rest += (i > 1 ? " " : "") + words[i];
    std::optional<Tensor> found = embeddings_(name);
    size_t first = name.find_first_not_of(','), last = name.find_last_not_of(',');
    std::string bare = first == name.npos ? "" : name.substr(first, last - first + 1);
    if (!found && bare.size() < name.size()) {
      // "embedding:name, more": the commas go back in front of the rest.
      rest = name.substr(bare.size()) + " " + rest;
      name = bare;
      if (!bare.empty()) found = embeddings_(bare);
    }
    if (found)
      add_vectors(name, *found, weight);
    else
      out_.not_found.push_back(name);
    return rest;
  }

  const Tokenizer& tokenizer_;
  const EmbeddingLookup& embeddings_;
  TokenizedPrompt& out_;
};

/// Lays groups out in chunks.
class Chunker {
 public:
  Chunker(const Tokenizer& tokenizer, const ChunkRules& rules, std::vector<std::vector<Token>>& chunks)
      : tokenizer_(tokenizer), rules_(rules), chunks_(chunks) {
    begin();
  }

  void add(std::span<const Token> group) {
    constexpr size_t kLargeGroup = 8;
    const bool large = group.size() >= kLargeGroup;
    while (!group.empty()) {
      size_t taken = group.size();
      if (rules_.length > 0 && taken > room()) {
        taken = large ? room() : 0;
        chunk().insert(chunk().end(), group.begin(), group.begin() + ptrdiff_t(taken));
        finish();
        begin();
      } else {
        chunk().insert(chunk().end(), group.begin(), group.end());
      }
      group = group.subspan(taken);
    }
  }
  void finish() {
    chunk().push_back({tokenizer_.end_id()});
    auto length = size_t(std::max(rules_.length, rules_.least_length));
    if (chunk().size() < length) chunk().resize(length, {rules_.pad_id});
  }

 private:
  std::vector<Token>& chunk() { return chunks_.back(); }
  size_t room() { return size_t(rules_.length) - 1 - chunk().size(); }  // the end needs a place too
  void begin() {
    chunks_.emplace_back();
    if (auto id = tokenizer_.start_id()) chunk().push_back({*id});
  }

  const Tokenizer& tokenizer_;
  const ChunkRules& rules_;
  std::vector<std::vector<Token>>& chunks_;
};

}  // namespace

std::vector<WeightedText> parse_prompt_weights(std::string_view prompt) {
  require_utf8(prompt, "the prompt");
  std::vector<WeightedText> runs;
  collect(hide_escaped(prompt), 1.0, 0, runs);
  return runs;
}

ChunkRules clip_l_rules(const Tokenizer& tokenizer) { return {.length = 77, .pad_id = tokenizer.end_id()}; }
ChunkRules clip_g_rules() { return {.length = 77, .pad_id = 0}; }
ChunkRules t5_rules() { return {.length = 0, .least_length = 256, .pad_id = 0}; }

TokenizedPrompt tokenize_prompt(std::string_view prompt, const Tokenizer& tokenizer, const ChunkRules& rules,
                                const EmbeddingLookup& embeddings) {
  constexpr int64_t kShortest = 10;  // start, end and a group that is never cut
  if (rules.length != 0 && rules.length < kShortest)
    fail(Code::InvalidArgument, "prompt: chunks of {} tokens; expected at least {}, or 0 for one chunk", rules.length, kShortest);
  TokenizedPrompt out;
  Grouper grouper(tokenizer, embeddings, out);
  for (const WeightedText& run : parse_prompt_weights(prompt)) grouper.add(run);
  Chunker chunker(tokenizer, rules, out.chunks);
  for (const auto& group : grouper.groups) chunker.add(group);
  chunker.finish();
  return out;
}

}  // namespace sinter
