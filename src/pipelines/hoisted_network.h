#pragma once
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/hash.h"
#include "pipelines/network.h"

namespace sinter {

using NamedTensors = std::map<std::string, Tensor>;

/// Inputs that change together, and seldom.
struct SteadyInputs {
  std::string name;
  std::set<std::string> inputs;
  bool for_a_run = false;  ///< they stay for many runs, and so does on the device what is computed from them
};

/// A network whose rows (along the first axis of every input and output) do not depend on each other, with a table of the rows
/// that it has computed. Its weights are loaded while there are rows to compute.
class RowTable {
 public:
  RowTable(std::unique_ptr<Network> network, bool for_a_run) : network_(std::move(network)), for_a_run_(for_a_run) {}

  Network& network() { return *network_; }
  bool for_a_run() const { return for_a_run_; }
  /// Computes the rows of these inputs that are not known, forgets all others, and gives up the weights.
  void prepare(const std::vector<NamedTensors>& inputs);
  /// The outputs for these inputs, of rows that are known or computed now. Asked twice with the same tensors, it gives the same.
  NamedTensors rows(const NamedTensors& inputs);
  /// Forgets all rows, and the weights.
  void clear();
  /// Of the outputs at these sizes.
  int64_t bytes(const Bindings& sizes) const;

 private:
  struct Row {
    std::shared_ptr<const std::vector<Tensor>> outputs;  // of the run that made it
    int64_t row = 0;
  };
  std::vector<Tensor> own_inputs(const NamedTensors& inputs) const;
  std::vector<Digest> keys_of(const std::vector<Tensor>& inputs) const;
  void compute(const std::vector<Digest>& keys, const std::vector<Tensor>& inputs);
  NamedTensors joined(const std::vector<Digest>& keys) const;
  void unload();

  std::unique_ptr<Network> network_;
  std::unordered_map<Digest, Row, DigestHash> table_;
  std::vector<Tensor> last_inputs_;
  NamedTensors last_outputs_;
  bool for_a_run_, loaded_ = false;
};

/// A network that computes what depends only on some of its inputs apart, once for each row of those.
class HoistedNetwork {
 public:
  using MakeNetwork = std::function<std::unique_ptr<Network>(const std::string& label, std::unique_ptr<Graph>)>;
  /// The rows of the graph's inputs and outputs must not depend on each other. `make` makes the networks of its parts.
  HoistedNetwork(std::string label, std::unique_ptr<Graph> graph, const std::vector<SteadyInputs>& steady,
                 const MakeNetwork& make);

  /// The whole.
  const Graph& graph() const { return *graph_; }
  /// What runs in every step, and what is computed apart.
  Network& step() { return *step_; }
  std::vector<std::unique_ptr<RowTable>>& tables() { return tables_; }

  /// Computes for these inputs what is computed apart from them alone, and forgets it for all others. Each may have many rows.
  void prepare(const std::vector<NamedTensors>& inputs);
  /// As Network.
  std::vector<Tensor> run(NamedTensors inputs);
  void unload_weights();
  void weights_changed(const std::set<std::string>& names);

 private:
  std::unique_ptr<Graph> graph_;
  std::vector<std::unique_ptr<RowTable>> tables_;
  std::unique_ptr<Network> step_;
};

}  // namespace sinter
