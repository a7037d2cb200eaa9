#include "text/byte_pair_encoding.h"

#include <algorithm>
#include <bit>
#include <functional>

#include "base/error.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

namespace sinter {
namespace {

bool printable(int byte) { return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae; }

/// Ids by spelling: open addressing over the list itself, since building a map of 50000 nodes would take most of the load time.
class Spellings {
 public:
  Spellings(const TokenIds& ids, const std::string& name) : ids_(ids) {
    int bits = int(std::bit_width(ids.size() * 2 + 15));
    slots_.resize(size_t(1) << bits);
    mask_ = slots_.size() - 1;
    std::vector<bool> taken;
    for (size_t i = 0; i < ids.size(); ++i) {
      const auto& [text, id] = ids[i];
      if (id < 0 || id > kLargestTokenId)
        fail(Code::Corrupt, "{}: token '{}' has the id {}; expected 0 to {}", name, shortened(text), id, kLargestTokenId);
      if (size_t(id) >= taken.size()) taken.resize(std::max(size_t(id) + 1, taken.size() * 2));
      if (taken[size_t(id)])
        fail(Code::Corrupt, "{}: the id {} is given twice, the second time to '{}'", name, id, shortened(text));
      taken[size_t(id)] = true;
      uint64_t hash = hash_of(text);
      Slot& slot = slots_[place(text, hash)];
      if (slot.entry != kFree) fail(Code::Corrupt, "{}: token '{}' is there twice", name, shortened(text));
      slot = {uint32_t(hash >> 32), uint32_t(i)};
    }
  }

  int32_t find(std::string_view text) const {
    const Slot& slot = slots_[place(text, hash_of(text))];
    return slot.entry == kFree ? BytePairEncoding::kMissing : int32_t(ids_[slot.entry].second);
  }

 private:
  static constexpr uint32_t kFree = ~uint32_t(0);
  struct Slot {
    uint32_t hash = 0, entry = kFree;
  };
  static uint64_t hash_of(std::string_view text) { return std::hash<std::string_view>()(text); }
  /// Where `text` is, or would be put.
  size_t place(std::string_view text, uint64_t hash) const {
    for (size_t i = hash & mask_;; i = (i + 1) & mask_) {
      const Slot& slot = slots_[i];
      if (slot.entry == kFree || (slot.hash == uint32_t(hash >> 32) && ids_[slot.entry].first == text)) return i;
    }
  }

  const TokenIds& ids_;
  std::vector<Slot> slots_;
  size_t mask_;
};

}  // namespace

std::array<char32_t, 256> byte_characters() {
  std::array<char32_t, 256> out;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) out[size_t(byte)] = printable(byte) ? char32_t(byte) : next++;
  return out;
}

std::array<unsigned char, 256> byte_order() {
  std::array<unsigned char, 256> out;
  size_t next = 0;
  for (bool wanted : {true, false})
    for (int byte = 0; byte < 256; ++byte)
      if (printable(byte) == wanted) out[next++] = static_cast<unsigned char>(byte);
  return out;
}

BytePairEncoding::BytePairEncoding(const TokenIds& ids, const Merges& merges, const std::string& ids_name,
                                   const std::string& merges_name) {
  Spellings spellings(ids, ids_name);
  for (const auto& entry : ids) largest_id_ = std::max(largest_id_, entry.second);
  auto characters = byte_characters();
  for (size_t byte = 0; byte < 256; ++byte) {
    std::string text;
    append_utf8(text, characters[byte]);
    inner_[byte] = spellings.find(text);
    last_[byte] = spellings.find(text + "</w>");
  }
  int bits = int(std::bit_width(merges.size() * 2 + 15));
  merges_.resize(size_t(1) << bits);
  shift_ = 64 - bits;
  std::string joined;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [first, second] = merges[rank];
    joined.assign(first).append(second);
    int32_t a = spellings.find(first), b = spellings.find(second), ab = spellings.find(joined);
    if (a == kMissing || b == kMissing || ab == kMissing)
      fail(Code::Corrupt,
           "{}: merge {} is of '{}' and '{}', but the vocabulary has no token '{}'; the files do not belong together",
           merges_name, rank + 1, shortened(first), shortened(second),
           shortened(a == kMissing   ? first
                     : b == kMissing ? second
                                     : joined));
    if (!insert({pair_of(a, b), int32_t(rank), ab}))
      fail(Code::Corrupt, "{}: merge {} of '{}' and '{}' is there twice", merges_name, rank + 1, shortened(first),
           shortened(second));
  }
}

bool BytePairEncoding::insert(Merge merge) {
  for (size_t i = slot_of(merge.pair);; i = (i + 1) & (merges_.size() - 1)) {
    if (merges_[i].pair == merge.pair) return false;
    if (merges_[i].pair != kFree) continue;
    merges_[i] = merge;
    return true;
  }
}

const BytePairEncoding::Merge* BytePairEncoding::find(int32_t first, int32_t second) const {
  uint64_t pair = pair_of(first, second);
  for (size_t i = slot_of(pair);; i = (i + 1) & (merges_.size() - 1)) {
    if (merges_[i].pair == pair) return &merges_[i];
    if (merges_[i].pair == kFree) return nullptr;
  }
}

void BytePairEncoding::encode(std::string_view word, int64_t unknown, Scratch& scratch, std::vector<int64_t>& ids) const {
  auto& symbols = scratch.symbols;
  auto& queue = scratch.queue;  // a heap of rank << 32 | place of the first symbol: lowest rank first, then leftmost
  symbols.clear();
  queue.clear();
  const auto count = int32_t(word.size());
  for (int32_t i = 0; i < count; ++i) {
    auto byte = static_cast<unsigned char>(word[size_t(i)]);
    int32_t id = i + 1 == count ? last_[byte] : inner_[byte];
    symbols.push_back({id == kMissing ? int32_t(unknown) : id, i - 1, i + 1 < count ? i + 1 : -1});
  }
  auto candidate = [&](int32_t place) -> const Merge* {
    if (place < 0 || symbols[size_t(place)].after < 0) return nullptr;
    return find(symbols[size_t(place)].id, symbols[size_t(symbols[size_t(place)].after)].id);
  };
  auto entry = [](const Merge& merge, int32_t place) { return uint64_t(uint32_t(merge.rank)) << 32 | uint32_t(place); };
  auto push = [&](int32_t place) {
    if (const Merge* merge = candidate(place)) {
      queue.push_back(entry(*merge, place));
      std::push_heap(queue.begin(), queue.end(), std::greater<>());
    }
  };
  for (int32_t i = 0; i + 1 < count; ++i) push(i);
  constexpr int32_t kGone = -2;
  while (!queue.empty()) {
    std::pop_heap(queue.begin(), queue.end(), std::greater<>());
    uint64_t top = queue.back();
    queue.pop_back();
    auto place = int32_t(uint32_t(top));
    auto& first = symbols[size_t(place)];
    if (first.id == kGone) continue;
    const Merge* merge = candidate(place);
    if (!merge || entry(*merge, place) != top) continue;  // one of the two has been merged meanwhile
    auto& second = symbols[size_t(first.after)];
    first.id = merge->id;
    first.after = second.after;
    second.id = kGone;
    if (first.after >= 0) symbols[size_t(first.after)].before = place;
    push(first.before);
    push(place);
  }
  for (int32_t i = 0; i >= 0; i = symbols[size_t(i)].after) ids.push_back(symbols[size_t(i)].id);
}

}  // namespace sinter
