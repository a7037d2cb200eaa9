#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "graph/attrs.h"
#include "tensor/dim.h"
#include "tensor/tensor.h"

namespace sinter {

class Graph;
struct Node;
struct OpDef;

struct Type {
  DType dtype = DType::f32;
  Shape shape;
  bool operator==(const Type&) const = default;
  std::string text() const;  ///< "f32[batch, 77, 768]"
};

/// A pointer to a Node; what builder functions take and give. Empty only where "no value" is meant.
class Value {
 public:
  Value() = default;
  Value(const Node* node) : node_(node) {}  // NOLINT: a Value is a pointer to a Node
  const Node* operator->() const { return node_; }
  const Node& operator*() const { return *node_; }
  const Node* node() const { return node_; }
  explicit operator bool() const { return node_ != nullptr; }
  bool operator==(const Value&) const = default;
  const Shape& shape() const;
  /// The size of one axis; negative axes count from the end.
  const Dim& dim(int axis) const;
  int rank() const;
  DType dtype() const;

 private:
  const Node* node_ = nullptr;
};

/// Op, inputs, attributes and type. Immutable, unique by content within its Graph, one result.
struct Node {
  const OpDef* op;
  std::vector<Value> inputs;
  Attrs attrs;
  Type type;
  Graph* graph;
  uint32_t id;  ///< position in graph->nodes()
};

/// One case of an op for contract tests, benchmarks and docs: types of its inputs and how to build it from them.
struct Sample {
  std::vector<Type> inputs;
  std::function<Value(std::span<const Value>)> build;
  double low = -1, high = 1;   ///< the range inputs are drawn from
  bool differentiable = true;  ///< false where the gradient does not exist or is zero by definition
};
/// A bad use of an op and words that its error must contain.
struct Refusal {
  std::vector<Type> inputs;
  std::function<Value(std::span<const Value>)> build;
  std::string words;
};

/// One constant record for each op. A composite gives `expand`; a primitive gives `reference` and `gradient`. How a device
/// runs it fast lives with the device.
struct OpDef {
  std::string_view name;
  std::string_view summary;
  /// The type of the result; fails with Code::InvalidArgument where inputs or attributes do not fit. Sees inputs and attrs.
  Type (*infer)(const Node& n) = nullptr;
  /// The same value in simpler ops.
  Value (*expand)(const Node& n) = nullptr;
  /// The value for given inputs, plainly; sums in double precision.
  Tensor (*reference)(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) = nullptr;
  /// For each input the gradient, given the gradient of the result; empty where there is none.
  std::vector<Value> (*gradient)(const Node& n, Value output_gradient) = nullptr;
  std::vector<Sample> (*samples)() = nullptr;
  std::vector<Refusal> (*refusals)() = nullptr;
  /// Reads attributes back from what Attrs::texts gave; null for an op without attributes.
  Attrs (*read_attrs)(const AttrTexts& texts) = nullptr;
};

struct Output {
  std::string name;
  Value value;
};

/// Typed single-assignment form. Nodes are in topological order by construction.
class Graph {
 public:
  Graph() = default;
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// The node with this content, made if it is new. Errors of `infer` name the op and the types of its inputs.
  Value add(const OpDef& op, std::vector<Value> inputs, Attrs attrs = {});
  Value input(const std::string& name, Type type);
  Value weight(const std::string& name, Type type);
  void output(std::string name, Value value) { outputs_.push_back({std::move(name), value}); }

  const std::deque<Node>& nodes() const { return nodes_; }
  const std::vector<Value>& inputs() const { return inputs_; }
  const std::vector<Output>& outputs() const { return outputs_; }

 private:
  std::deque<Node> nodes_;
  std::unordered_map<Digest, const Node*, DigestHash> by_content_;
  std::vector<Value> inputs_;
  std::vector<Output> outputs_;
};

/// A block: a graph that is compiled once and called with each repetition's weights. Its inputs are the parameters, its outputs
/// the results; names of weights in it are relative to the prefix of each call.
struct Function {
  std::string name;  ///< for people: "resblock 320->640"
  Graph graph;
};

/// Nodes that `roots` depend on, inputs before users; the order depends on structure alone.
std::vector<Value> topological_order(std::span<const Value> roots);
std::vector<Value> topological_order(const Graph& graph);  ///< from the outputs

/// Digest of structure: equal for graphs that differ only in names, in the order of creation, or in unused nodes.
Digest structure_digest(const Graph& graph);
/// The same, leaving the numbers that its symbols have in the digest: graphs of one digest mean the same by one number.
Digest structure_digest(const Graph& graph, SymbolNumbering& numbering);

/// A weight as the graph declares it.
struct WeightUse {
  std::string name;  ///< with the prefixes of the calls around it
  Type type;
};
/// Weights in the order of topological_order, calls entered where they stand; a name appears once.
std::vector<WeightUse> weights_of(const Graph& graph);
/// The weights that the graph itself uses (not those of functions that it calls), in topological order.
std::vector<Value> own_weights(const Graph& graph);

/// Checks every promise of a graph (order, types, arity, uniqueness); fails with Code::Internal naming node and promise.
void verify(const Graph& graph);

/// Copies what `outputs` of `from` need into a new graph, with symbols replaced and every node passed through `rewrite`
/// (null or an empty result: rebuilt as it is, from mapped inputs).
using Rewrite = std::function<Value(const Node& original, std::span<const Value> inputs, Graph& to)>;
void copy_graph(const Graph& from, Graph& to, const Bindings& bindings = {}, const Rewrite& rewrite = {});

}  // namespace sinter
