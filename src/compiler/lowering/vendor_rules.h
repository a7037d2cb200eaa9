#pragma once
#include "graph/graph.h"

namespace sinter {

/// Rewrites a graph for engines whose products take any rows of any weights and write anywhere: linear layers of one input become
/// one product, a linear layer read in parts becomes several, and what is sliced only to be joined again is joined first.
void apply_vendor_rules(const Graph& from, Graph& to);

}  // namespace sinter
