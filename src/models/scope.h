#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "graph/ops.h"

namespace sinter {

/// How a model is built: the types of its arithmetic and of its weights.
struct BuildOptions {
  DType compute = DType::f32;
  /// The type in which the weight of this full name is kept; null: `compute`. A weight of another type is followed by a cast,
  /// which backends do inside their kernels.
  std::function<DType(const std::string& name)> storage;
};

/// A place in a model's naming, and the graph that is being built there. Cheap to copy: `s / "attn" / "qkv"`.
/// Weights are declared where they are used; the graph is the only list of them.
class Scope {
 public:
  Scope(Graph& graph, const BuildOptions& options) : Scope(graph, options, std::make_shared<Blocks>(), "", "") {}

  Scope operator/(std::string_view name) const;
  Scope operator/(int64_t index) const { return *this / std::to_string(index); }
  Graph& graph() const { return *graph_; }
  DType compute() const { return options_->compute; }

  /// The weight `name` under this scope, as a value of the compute type.
  Value weight(std::string_view name, Shape shape) const;

  /// A block: `body` is traced into a function of its own, whose parameters have the types of `arguments`. Functions of equal
  /// structure and weight names are one function, compiled once. `label` is for people.
  using Body = std::function<std::vector<Value>(Scope, std::vector<Value>)>;
  std::vector<Value> block(const std::string& label, std::vector<Value> arguments, const Body& body) const;

 private:
  using Blocks = std::map<Digest, std::shared_ptr<const Function>>;
  Scope(Graph& graph, const BuildOptions& options, std::shared_ptr<Blocks> blocks, std::string outer, std::string prefix)
      : graph_(&graph), options_(&options), blocks_(std::move(blocks)), outer_(std::move(outer)), prefix_(std::move(prefix)) {}

  Graph* graph_;
  const BuildOptions* options_;
  std::shared_ptr<Blocks> blocks_;
  std::string outer_;   // the prefix of the call around this graph: full name = outer + prefix + name
  std::string prefix_;  // within this graph; ends in a dot unless empty
};

// Layers that every model uses, by the names that checkpoints use.

/// x . weight^T (+ bias): `weight` [out, in], `bias` [out].
Value linear_layer(const Scope& s, Value x, Dim out, bool bias = true);
/// x[batch, height, width, channels]; `weight` [out, channels, kernel, kernel], `bias` [out]. Padding on all sides.
Value conv_layer(const Scope& s, Value x, Dim out, int64_t kernel, int64_t stride = 1, int64_t padding = 0);
Value group_norm_layer(const Scope& s, Value x, double epsilon, int64_t groups = 32);
Value layer_norm_layer(const Scope& s, Value x, double epsilon = 1e-5);

}  // namespace sinter
