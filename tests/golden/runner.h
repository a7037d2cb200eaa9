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

/// Compiles and runs each graph on this session's backend.
GraphRunner session_runner(Session& session);

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

/// What checks of networks share: the folder, one opened file of it, what is known of that file, who runs, where results go.
struct ForwardCheck {
  const std::string& directory;
  GoldenFile& file;
  KnownKeys& known;
  const GraphRunner& run;
  GoldenReport& report;

  /// Reads a tensor and marks it as known.
  const Tensor& get(const std::string& name) const {
    known.add(name);
    return file.get(name);
  }
  /// "unet" -> "unet/0/", "unet/1/", ... for the cases that the file has.
  std::vector<std::string> cases(const std::string& group) const {
    std::vector<std::string> found;
    for (auto& [name, tensor] : file.tensors()) {
      auto parts = path_parts(name);
      if (parts.size() < 3 || parts[0] != group) continue;
      std::string prefix = parts[0] + "/" + parts[1] + "/";
      if (found.empty() || found.back() != prefix) found.push_back(prefix);
    }
    return found;
  }
  /// Block traces are for finding faults by hand; they count as known where a check has looked at the output.
  void know_block_trace(const std::string& prefix) const { known.add(prefix + "block_trace"); }
};

// Whole files: every case in them is run, and a tensor that no check knows is a failing case "unknown case".

void check_sd15_forward(const std::string& directory, GoldenReport& report, const GraphRunner& run);
void check_sdxl_forward(const std::string& directory, GoldenReport& report, const GraphRunner& run);
void check_flux_forward(const std::string& directory, GoldenReport& report, const GraphRunner& run);

}  // namespace sinter::golden
