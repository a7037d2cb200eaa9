#include "text/byte_trie.h"

#include <bit>

namespace sinter {

void ByteTrie::reserve(size_t bytes) {
  int bits = int(std::bit_width(bytes * 2 + 15));
  if (edges_.size() < (size_t(1) << bits)) resize(bits);
  values_.reserve(bytes + 1);
}

void ByteTrie::resize(int bits) {
  std::vector<Edge> old(size_t(1) << bits);
  old.swap(edges_);
  shift_ = 64 - bits;
  for (const Edge& edge : old)
    if (edge.key != 0) place(edge);
}

void ByteTrie::place(Edge edge) {
  size_t i = slot_of(edge.key);
  while (edges_[i].key != 0) i = (i + 1) & (edges_.size() - 1);
  edges_[i] = edge;
}

int32_t ByteTrie::insert(std::string_view text, int32_t value) {
  int32_t node = 0;
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    int32_t next = child(node, byte);
    if (next == kNone) {
      if (values_.size() * 2 >= edges_.size()) resize(edges_.empty() ? 4 : int(std::bit_width(edges_.size())));
      next = int32_t(values_.size());
      values_.push_back(kNone);
      place({key_of(node, byte), next});
    }
    node = next;
  }
  int32_t before = values_[size_t(node)];
  values_[size_t(node)] = value;
  return before;
}

}  // namespace sinter
