#pragma once
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/sha256.h"
#include "graph/graph.h"

namespace sinter {

/// Names and shapes of the weights that some graphs declare together, comparable with tables of released checkpoints.
class ParameterTable {
 public:
  void add(const Graph& graph) {
    for (const WeightUse& use : weights_of(graph)) {
      std::vector<int64_t> shape;
      for (const Dim& dim : use.type.shape) shape.push_back(dim.constant());
      shapes[use.name] = std::move(shape);
    }
  }
  int64_t parameters() const {
    int64_t sum = 0;
    for (auto& [name, shape] : shapes) sum += element_count(std::span<const int64_t>(shape));
    return sum;
  }
  /// The first 16 digits of SHA-256 over lines "name<TAB>d0,d1,...<LF>", sorted by bytes.
  std::string digest() const {
    std::vector<std::string> lines;
    for (auto& [name, shape] : shapes) {
      std::string line = name + "\t";
      for (size_t i = 0; i < shape.size(); ++i) line += (i ? "," : "") + std::to_string(shape[i]);
      lines.push_back(line + "\n");
    }
    std::sort(lines.begin(), lines.end());
    Sha256 hash;
    for (const std::string& line : lines) hash.add(line);
    return hash.hex().substr(0, 16);
  }

  std::map<std::string, std::vector<int64_t>> shapes;
};

}  // namespace sinter
