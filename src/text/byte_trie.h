#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

namespace sinter {

/// A set of byte strings, each with a number, for finding all of them that begin at a place in a text.
class ByteTrie {
 public:
  static constexpr int32_t kNone = -1;

  ByteTrie() : values_(1, kNone) {}
  /// Room for strings of so many bytes altogether.
  void reserve(size_t bytes);
  /// The number `text` had before, kNone if it is new; its number is then `value` (not negative).
  int32_t insert(std::string_view text, int32_t value);

  /// Calls found(length, value) for each string of the set that `text` begins with, shortest first.
  template <class Found>
  void prefixes(std::string_view text, Found&& found) const {
    int32_t node = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      node = child(node, static_cast<unsigned char>(text[i]));
      if (node == kNone) return;
      if (values_[size_t(node)] != kNone) found(i + 1, values_[size_t(node)]);
    }
  }

 private:
  // All edges of all nodes in one open-addressing table: key = (parent << 8 | byte) + 1, 0 where free.
  struct Edge {
    uint64_t key = 0;
    int32_t child = kNone;
  };
  static uint64_t key_of(int32_t node, unsigned char byte) { return (uint64_t(node) << 8 | byte) + 1; }
  size_t slot_of(uint64_t key) const { return size_t((key * 0x9e3779b97f4a7c15ull) >> shift_); }
  int32_t child(int32_t node, unsigned char byte) const {
    if (edges_.empty()) return kNone;
    uint64_t key = key_of(node, byte);
    for (size_t i = slot_of(key);; i = (i + 1) & (edges_.size() - 1)) {
      if (edges_[i].key == key) return edges_[i].child;
      if (edges_[i].key == 0) return kNone;
    }
  }
  void place(Edge edge);
  void resize(int bits);

  std::vector<Edge> edges_;
  int shift_ = 64;
  std::vector<int32_t> values_;  // by node
};

}  // namespace sinter
