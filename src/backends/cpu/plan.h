#pragma once
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "backends/cpu/weights.h"
#include "compiler/layout.h"

namespace sinter::cpu {

/// A launch list: a layout with the addresses of weights and arena filled in.
class Plan final : public sinter::Plan {
 public:
  Plan(Engine& engine, const CompiledGraph& compiled, const Layout& layout, const BoundWeights& weights);
  std::vector<Tensor> run(const std::map<std::string, Tensor>& inputs) override;

  /// One step of one call of a block.
  struct Launch {
    const char* kind;  ///< "linear", "conv", "attention", "kernel", ...
    std::function<void()> run;
    const Unit* unit;
    size_t step;  ///< of the unit's program
    double seconds = 0;
  };
  /// In the order in which they run. Running them one by one repeats the last run.
  const std::vector<Launch>& launches() const { return launches_; }

  void measure(bool on) override { measuring_ = on; }
  std::map<std::string, double> measured() const override;

 private:
  class Builder;
  Engine& engine_;
  const CompiledGraph& compiled_;
  Bindings bindings_;
  std::vector<Launch> launches_;
  std::vector<char*> inputs_, outputs_;
  std::vector<bool> is_kept_;
  std::vector<Tensor> kept_;  // what the inputs were in the last run, of those that are kept
  Tensor kept_memory_;
  bool measuring_ = false;
};

}  // namespace sinter::cpu
