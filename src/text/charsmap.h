#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sinter {

/// SentencePiece's table of character replacements: a double-array trie of what is replaced (Darts-clone's layout), and the
/// replacements, each ended by a zero byte. File form: u32 size of the trie in bytes, the trie as u32 units, the replacements;
/// little endian.
class CharsMap {
 public:
  /// `bytes` is the file form; Code::Corrupt, naming `name`, unless it is one.
  CharsMap(std::string_view bytes, const std::string& name);
  static CharsMap from_base64(std::string_view text, const std::string& name);

  /// The text with each grapheme cluster of at most five bytes replaced if the table has it, and otherwise each character.
  std::string apply(std::string_view text) const;

 private:
  std::optional<std::string_view> replacement(std::string_view key) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace sinter
