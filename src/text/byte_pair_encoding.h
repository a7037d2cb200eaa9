#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/tokenizer_json.h"

namespace sinter {

/// The character that stands for each byte in the vocabularies of byte-level BPE: printable Latin-1 for itself, the others from
/// U+0100 on, in the order of the bytes.
std::array<char32_t, 256> byte_characters();
/// The bytes in the order of GPT-2 and CLIP vocabularies: the printable ones first.
std::array<unsigned char, 256> byte_order();

/// Byte-level byte pair encoding of single words, the last character of which carries "</w>". Takes O(n log n) for n bytes.
class BytePairEncoding {
 public:
  using Merges = std::vector<std::pair<std::string, std::string>>;

  /// Code::Corrupt for ids out of range or given twice, merges of unknown tokens or given twice; the names are the files'.
  BytePairEncoding(const TokenIds& ids, const Merges& merges, const std::string& ids_name, const std::string& merges_name);

  /// kMissing unless a token is spelt so.
  static constexpr int32_t kMissing = -1;
  /// Room that one thread uses again for every word.
  struct Scratch {
    struct Symbol {
      int32_t id, before, after;
    };
    std::vector<Symbol> symbols;
    std::vector<uint64_t> queue;
  };
  /// Appends the ids of a word of at least one byte; `unknown` stands for bytes that the vocabulary lacks.
  void encode(std::string_view word, int64_t unknown, Scratch& scratch, std::vector<int64_t>& ids) const;
  int64_t largest_id() const { return largest_id_; }

 private:
  struct Merge {
    uint64_t pair = kFree;
    int32_t rank = 0, id = 0;
  };
  static constexpr uint64_t kFree = ~uint64_t(0);
  static uint64_t pair_of(int32_t first, int32_t second) { return uint64_t(uint32_t(first)) << 32 | uint32_t(second); }
  const Merge* find(int32_t first, int32_t second) const;
  size_t slot_of(uint64_t pair) const { return size_t((pair * 0x9e3779b97f4a7c15ull) >> shift_); }
  bool insert(Merge merge);

  std::array<int32_t, 256> inner_, last_;  // the id of each byte, inside a word and at its end
  std::vector<Merge> merges_;              // open addressing by pair
  int shift_ = 64;
  int64_t largest_id_ = 0;
};

}  // namespace sinter
