#include "text/normalizer.h"

#include "base/error.h"
#include "text/unicode.h"

namespace sinter {
namespace {

// A hostile file could double the text in every step.
constexpr size_t kLongestText = size_t(1) << 26;

void append_bounded(std::string& out, const std::string& content) {
  if (out.size() + content.size() > kLongestText)
    fail(Code::InvalidArgument, "the normalised text would be longer than {} bytes: it, or the tokenizer.json, is not meant so",
         kLongestText);
  out += content;
}

std::string stripped(const std::string& text, bool left, bool right) {
  // [begin, end) spans what is not white space, seen from the ends that count.
  size_t begin = text.size(), end = 0;
  for (size_t i = 0; i < text.size();) {
    size_t start = i;
    if (is_white_space(take_code_point(text, i))) continue;
    begin = std::min(begin, start);
    end = i;
  }
  if (end == 0) return left || right ? "" : text;
  if (!left) begin = 0;
  if (!right) end = text.size();
  return text.substr(begin, end - begin);
}

std::string replaced(const std::string& text, const std::string& pattern, const std::string& content) {
  std::string out;
  size_t done = 0;
  for (size_t found; (found = text.find(pattern, done)) != std::string::npos; done = found + pattern.size()) {
    out.append(text, done, found - done);
    append_bounded(out, content);
  }
  return out.append(text, done);
}

std::string blanks_replaced(const std::string& text, size_t least, const std::string& content) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    size_t end = i;
    while (end < text.size() && text[end] == ' ') ++end;
    if (end - i >= least)
      append_bounded(out, content);
    else
      out.append(end - i, ' ');
    if (end == i) out.push_back(text[end++]);
    i = end;
  }
  return out;
}

}  // namespace

Normalizer::Normalizer(const std::vector<NormalizerStep>& steps, const std::string& name) {
  for (const NormalizerStep& step : steps) {
    if (step.type == "Precompiled") {
      if (!step.charsmap.empty()) steps_.emplace_back(CharsMap::from_base64(step.charsmap, name));
    } else if (step.type == "Strip") {
      steps_.emplace_back(Strip{step.strip_left, step.strip_right});
    } else if (step.type == "Replace" && !step.regular_expression && !step.pattern.empty()) {
      steps_.emplace_back(Replace{step.pattern, step.content});
    } else if (step.type == "Replace" && step.regular_expression && step.pattern == " {2,}") {
      steps_.emplace_back(ReplaceBlanks{2, step.content});
    } else {
      fail(Code::Unsupported,
           "{}: the normaliser step '{}' {}is not one that we read (Precompiled, Strip, Replace of a text or of ' {{2,}}')", name,
           shortened(step.type), step.pattern.empty() ? "" : fmt::format("of '{}' ", shortened(step.pattern)));
    }
  }
}

std::string Normalizer::apply(std::string_view text) const {
  std::string out(text);
  for (const auto& step : steps_) {
    if (auto map = std::get_if<CharsMap>(&step)) out = map->apply(out);
    if (auto strip = std::get_if<Strip>(&step)) out = stripped(out, strip->left, strip->right);
    if (auto replace = std::get_if<Replace>(&step)) out = replaced(out, replace->pattern, replace->content);
    if (auto blanks = std::get_if<ReplaceBlanks>(&step)) out = blanks_replaced(out, blanks->least, blanks->content);
  }
  return out;
}

}  // namespace sinter
