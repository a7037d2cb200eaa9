#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "io/checkpoint.h"

namespace sinter {

/// Names and shapes of one component's weights, from which a model's hyper-parameters are read. `subject` is for messages.
struct WeightShapes {
  std::string subject;
  std::map<std::string, std::vector<int64_t>, std::less<>> shapes;

  bool has(std::string_view name) const { return shapes.contains(name); }
  /// The size of one axis; Code::Unsupported names the weight where it is missing or of another rank than `rank`.
  int64_t size(std::string_view name, int rank, int axis) const;
  /// How many of prefix + "0.", prefix + "1.", ... have weights, without a gap.
  int64_t count_blocks(std::string_view prefix) const;
};
WeightShapes weight_shapes(const Checkpoint& checkpoint);
/// What a graph declares; Code::Internal where a weight's shape depends on a symbol.
WeightShapes weight_shapes(const Graph& graph, const std::string& subject);

/// Hyper-parameters that no shape reveals, as small test checkpoints state them in their metadata `tiny_config`, a JSON object
/// {component: {name: number or list of numbers}}. Empty for every other file; Code::Corrupt for an entry of another form.
using ConfigOverrides = std::map<std::string, std::vector<int64_t>>;
ConfigOverrides config_overrides(const Metadata& metadata, const std::string& component);

}  // namespace sinter
