#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/byte_trie.h"

namespace sinter {

/// A token that is found by its spelling before anything else looks at the text, `<|endoftext|>` for example.
struct AddedToken {
  std::string content;
  int64_t id = 0;
  bool strip_left = false, strip_right = false;  ///< also takes the white space beside it
  bool normalized = false;                       ///< looked for after normalisation, else in the raw text
};

/// A piece of a text: ordinary text, or one added token.
struct TextPart {
  std::string_view text;
  size_t begin = 0;           ///< where it starts in the whole text
  std::optional<int64_t> id;  ///< of an added token
};

/// Cuts texts at added tokens, leftmost first and the longest there.
class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);
  /// The parts in order; ordinary parts are not empty. They point into `text`.
  std::vector<TextPart> split(std::string_view text) const;

 private:
  std::vector<AddedToken> tokens_;
  ByteTrie spellings_;
};

}  // namespace sinter
