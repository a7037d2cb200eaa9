#pragma once
#include <string>

#include "graph/graph.h"

namespace sinter {

/// One line a node, weights and numbers where they are used, as in
///   %12 = linear(%3, weight "to_q.weight") : f32[batch, tokens, 320]
/// Functions once, after the graph, with the prefixes under which they are called.
std::string graph_text(const Graph& graph);
/// For Graphviz: one cluster for the graph and one for each function.
std::string graph_dot(const Graph& graph);
/// A picture: boxes in layers, arrows downwards, functions below the graph. No box lies on another.
std::string graph_svg(const Graph& graph);

}  // namespace sinter
