#pragma once
#include <span>
#include <vector>

#include "graph/graph.h"

namespace sinter {

/// The gradients of sum(output * output_gradient) by each of `with_respect_to`, as values of the same graph: reverse mode, made
/// of ordinary ops. Calls are entered: their functions are copied into the graph, where a weight of a callee is graph.weight()
/// under its full name. Composites are differentiated through `expand`. Zeros where the output does not depend on a value.
/// Code::InvalidArgument where `output_gradient` is not of the type of `output`; Code::Unsupported for an op on the way that has
/// no gradient.
std::vector<Value> gradients(Value output, Value output_gradient, std::span<const Value> with_respect_to);

/// The same value without calls and without composites that have no gradient of their own; in the same graph.
class Lowering {
 public:
  explicit Lowering(Graph& graph) : graph_(graph) {}
  Value operator()(Value root);

 private:
  Value lower_node(const Node& node);
  std::vector<Value> inline_call(const Node& call);

  Graph& graph_;
  std::unordered_map<const Node*, Value> lowered_;
  std::unordered_map<const Node*, std::vector<Value>> calls_;  ///< the results of each call
};

}  // namespace sinter
