#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backends/cuda/launches.h"

namespace sinter::cuda {

/// A launch list in device memory. Nothing in a run allocates or waits but the last copy; from the second run on the whole list
/// is one device graph. When the arena has been replaced for a larger plan, the list is made again.
class Plan final : public sinter::Plan, private MemoryHolder {
 public:
  Plan(Engine& engine, const CompiledGraph& compiled, const Layout& layout, const BoundWeights& weights);
  ~Plan() override;

  std::vector<Tensor> run(const std::map<std::string, Tensor>& inputs) override;
  void measure(bool on) override { measuring_ = on; }
  std::map<std::string, double> measured() const override;

  /// In the order in which they run; for benchmarks. Inputs are what the last run left.
  std::vector<Launch>& launches();
  /// Queues all launches once more, as a run would, without copies and without waiting.
  void submit();

 private:
  struct Transfer {
    Value value;
    int64_t offset = 0, bytes = 0;  // in pinned_, which lies like the arena's beginning, with the kept inputs behind
  };
  void give_back_memory() override;
  void run_on_device(const std::map<std::string, Tensor>& inputs);
  void copy_inputs(const std::map<std::string, Tensor>& inputs);
  void build();
  void queue();
  void launch_one_by_one();
  void time_one_by_one();
  std::vector<int64_t> sizes_of(const Shape& shape) const;

  Engine& engine_;
  const CompiledGraph& compiled_;
  Layout layout_;
  const BoundWeights& weights_;
  int64_t arena_version_ = -1, workspace_version_ = -1;
  std::vector<Launch> launches_;
  std::vector<DeviceMemory> constants_;
  CapturedGraph graph_;
  int runs_ = 0;
  PinnedMemory pinned_;
  std::vector<Transfer> inputs_, outputs_;
  std::vector<Tensor> kept_;  // what the inputs were in the last run, of those that are kept
  DeviceMemory kept_memory_;
  bool measuring_ = false;
};

}  // namespace sinter::cuda
