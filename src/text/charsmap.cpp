#include "text/charsmap.h"

#include <utf8proc.h>

#include <array>
#include <cstring>

#include "base/error.h"
#include "text/unicode.h"

namespace sinter {
namespace {

std::string decode_base64(std::string_view text, const std::string& name) {
  static constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::array<int8_t, 256> value;
  value.fill(-1);
  for (size_t i = 0; i < kDigits.size(); ++i) value[static_cast<unsigned char>(kDigits[i])] = int8_t(i);
  while (!text.empty() && text.back() == '=') text.remove_suffix(1);
  std::string out;
  out.reserve(text.size() * 3 / 4);
  uint32_t bits = 0;
  int held = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    int digit = value[static_cast<unsigned char>(text[i])];
    if (digit < 0) fail(Code::Corrupt, "{}: \"precompiled_charsmap\" is not base64 at character {}", name, i);
    bits = bits << 6 | uint32_t(digit);
    held += 6;
    if (held < 8) continue;
    held -= 8;
    out.push_back(char(bits >> held & 0xff));
  }
  return out;
}

uint32_t little_endian_u32(const char* bytes) {
  uint32_t value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

constexpr size_t kLongestReplacement = 1024;

// One unit of the double array. Bits: 0-7 label, 8 the node has a value, 9 the offset is shifted by 8, 10-30 offset, 31 this unit
// is a value (the other 31 bits) rather than a node.
uint32_t label(uint32_t unit) { return unit & 0x800000ffu; }
bool has_value(uint32_t unit) { return unit >> 8 & 1; }
uint32_t value(uint32_t unit) { return unit & 0x7fffffffu; }
uint32_t offset(uint32_t unit) { return (unit >> 10) << ((unit & 0x200u) >> 6); }

}  // namespace

CharsMap::CharsMap(std::string_view bytes, const std::string& name) {
  if (bytes.size() < 4) fail(Code::Corrupt, "{}: the character map has {} bytes; expected at least 4", name, bytes.size());
  size_t trie_bytes = little_endian_u32(bytes.data());
  if (trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes > bytes.size() - 4)
    fail(Code::Corrupt, "{}: the character map says that its trie has {} bytes; expected a multiple of 4 up to {}", name,
         trie_bytes, bytes.size() - 4);
  units_.resize(trie_bytes / 4);
  for (size_t i = 0; i < units_.size(); ++i) units_[i] = little_endian_u32(bytes.data() + 4 + 4 * i);
  replacements_ = bytes.substr(4 + trie_bytes);
  require_utf8(replacements_, name + ": the list of replacements in the character map");
}

CharsMap CharsMap::from_base64(std::string_view text, const std::string& name) {
  return CharsMap(decode_base64(text, name), name);
}

/// What the shortest key that `key` begins with is replaced by. That the shortest decides, and stands for all of `key`, is how
/// the Hugging Face tokenizers read these tables.
std::optional<std::string_view> CharsMap::replacement(std::string_view key) const {
  size_t node = offset(units_[0]);
  for (char c : key) {
    auto byte = static_cast<unsigned char>(c);
    if (byte == 0) return {};
    node ^= byte;
    if (node >= units_.size() || label(units_[node]) != byte) return {};
    uint32_t unit = units_[node];
    node ^= offset(unit);
    if (!has_value(unit)) continue;
    if (node >= units_.size() || value(units_[node]) >= replacements_.size()) return {};
    size_t begin = value(units_[node]);
    // A place inside a character and a replacement of great length (the longest in use has 33 bytes) are damage.
    if ((static_cast<unsigned char>(replacements_[begin]) & 0xc0) == 0x80) return {};
    size_t end = std::min(replacements_.find('\0', begin), replacements_.size());
    if (end - begin > kLongestReplacement) return {};
    return std::string_view(replacements_).substr(begin, end - begin);
  }
  return {};
}

std::string CharsMap::apply(std::string_view text) const {
  constexpr size_t kLongestCluster = 5;
  std::string out;
  out.reserve(text.size() + 16);
  auto replace_characters = [&](std::string_view cluster) {
    for (size_t i = 0; i < cluster.size();) {
      size_t begin = i;
      take_code_point(cluster, i);
      std::string_view character = cluster.substr(begin, i - begin);
      out += replacement(character).value_or(character);
    }
  };
  auto flush = [&](std::string_view cluster) {
    if (cluster.size() <= kLongestCluster)
      if (auto found = replacement(cluster)) {
        out += *found;
        return;
      }
    replace_characters(cluster);
  };
  size_t begin = 0, position = 0;
  utf8proc_int32_t state = 0;
  char32_t before = 0;
  while (position < text.size()) {
    size_t start = position;
    char32_t here = take_code_point(text, position);
    if (start > begin && utf8proc_grapheme_break_stateful(utf8proc_int32_t(before), utf8proc_int32_t(here), &state)) {
      flush(text.substr(begin, start - begin));
      begin = start;
    }
    before = here;
  }
  if (begin < text.size()) flush(text.substr(begin));
  return out;
}

}  // namespace sinter
