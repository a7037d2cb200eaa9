#pragma once
#include <memory>
#include <set>
#include <string>

#include "graph/graph.h"

namespace sinter {

/// A graph cut in two by what its values depend on. The parts use the whole's weights under the same names; calls of a function
/// with the same steady arguments are calls of the same two functions.
struct Hoisted {
  /// Of the steady inputs that it needs. Its outputs are named "<name> 0", "<name> 1", ...; none where nothing is worth it.
  std::unique_ptr<Graph> prelude;
  /// The whole graph's outputs, of the inputs that it still needs and the prelude's outputs, under their names.
  std::unique_ptr<Graph> step;
};

/// Moves the products (linear, convolution, matmul, attention, and calls of functions) that depend on nothing but weights,
/// constants and the inputs named by `steady` to the prelude, from within called functions too, with all that leads to them. What
/// crosses is the smallest set of values from which the rest follows without a product. A value whose size is not given by a
/// steady input stays in the step. Code::InvalidArgument for a steady name that the graph does not have.
Hoisted hoist(const Graph& graph, const std::set<std::string>& steady, const std::string& name);

}  // namespace sinter
