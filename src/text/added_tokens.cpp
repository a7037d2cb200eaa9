#include "text/added_tokens.h"

#include "text/unicode.h"

namespace sinter {
namespace {

size_t skip_white_space(std::string_view text, size_t position) {
  while (position < text.size()) {
    size_t next = position;
    if (!is_white_space(take_code_point(text, next))) break;
    position = next;
  }
  return position;
}

/// Where the white space that ends at `end` begins, not before `low`.
size_t white_space_before(std::string_view text, size_t low, size_t end) {
  while (end > low) {
    size_t start = end - 1;
    while (start > low && (static_cast<unsigned char>(text[start]) & 0xc0) == 0x80) --start;
    size_t next = start;
    if (!is_white_space(take_code_point(text, next))) break;
    end = start;
  }
  return end;
}

}  // namespace

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (size_t i = 0; i < tokens_.size(); ++i)
    if (!tokens_[i].content.empty()) spellings_.insert(tokens_[i].content, int32_t(i));
}

std::vector<TextPart> AddedTokens::split(std::string_view text) const {
  std::vector<TextPart> parts;
  size_t done = 0;
  auto plain_until = [&](size_t end) {
    if (end > done) parts.push_back({text.substr(done, end - done), done, {}});
  };
  for (size_t i = 0; i < text.size() && !tokens_.empty();) {
    size_t length = 0;
    int32_t which = 0;
    spellings_.prefixes(text.substr(i), [&](size_t bytes, int32_t value) { length = bytes, which = value; });
    if (length == 0) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[size_t(which)];
    size_t begin = token.strip_left ? white_space_before(text, done, i) : i;
    size_t end = token.strip_right ? skip_white_space(text, i + length) : i + length;
    plain_until(begin);
    parts.push_back({text.substr(begin, end - begin), begin, token.id});
    i = done = end;
  }
  plain_until(text.size());
  return parts;
}

}  // namespace sinter
