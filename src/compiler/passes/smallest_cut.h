#pragma once
#include <cstdint>
#include <vector>

namespace sinter {

/// A value that can be handed over at a price, or computed from its sources for nothing.
struct CutNode {
  int64_t price = 1;
  std::vector<int> sources;  ///< positions of earlier nodes
  bool given = false;        ///< computed before the cut whatever its sources
  bool wanted = false;       ///< needed behind the cut
};

/// The cheapest nodes to hand over so that every wanted one is among them or can be computed from them alone, without computing
/// a given one; of equal prices, those nearest to the wanted. In order.
std::vector<int> smallest_cut(const std::vector<CutNode>& nodes);

}  // namespace sinter
