#pragma once
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "golden/golden_reader.h"
#include "golden/report.h"
#include "graph/graph.h"
#include "pipelines/network.h"

namespace sinter::golden {

/// Runs a built graph: inputs by name, weights asked for by full name (any dtype; the runner converts to the type that the graph
/// declares). Symbols of the graph are bound by the shapes of the inputs. Gives the outputs in the order of graph.outputs().
using GraphRunner = std::function<std::vector<Tensor>(const Graph& graph, const std::map<std::string, Tensor>& inputs,
                                                      const std::function<Tensor(const std::string& name)>& weights)>;

/// The runner that every other one is measured against.
GraphRunner interpreter_runner();

/// Compiles and runs each graph on this session's backend; `fp8_width` and `fp8_keys` as in LowerOptions.
GraphRunner session_runner(Session& session, int64_t fp8_width = 0, int64_t fp8_keys = 0);

/// The keys of one golden file that some check knows, used or accounted for. Several checks share one file: each marks what is
/// his, and whoever drives them reports the rest.
class KnownKeys {
 public:
  void add(const std::string& name) { known_.insert(name); }
  bool has(const std::string& name) const { return known_.contains(name); }
  /// Every key that starts with `prefix`.
  void add_all(const GoldenFile& file, const std::string& prefix) {
    for (auto& [name, tensor] : file.tensors())
      if (name.starts_with(prefix)) known_.insert(name);
  }
  /// A failing case for each key that no check has claimed.
  void report_unknown(const GoldenFile& file, GoldenReport& report) const {
    for (auto& [name, tensor] : file.tensors())
      if (!known_.contains(name)) report.fail(name, "unknown case");
  }

 private:
  std::set<std::string> known_;
};

}  // namespace sinter::golden
