#pragma once
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "backends/cpu/weights.h"

namespace sinter::cpu {

/// Address space in which plans that do not run at the same time put their buffers, one over the other. Memory is taken when it
/// is touched, in huge pages.
class Arena {
 public:
  Arena();
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  /// Gives back the memory that plans have touched; what they left in it is lost.
  void release();
  char* base() const { return base_; }
  int64_t capacity() const { return capacity_; }

 private:
  char* base_ = nullptr;
  int64_t capacity_ = 0;
};

/// Where the temporaries of a unit lie at one binding: offsets in bytes from the unit's base.
struct UnitLayout {
  std::vector<int64_t> temporaries;
  std::vector<int64_t> scratch;  ///< of each step: the workspace of a call, or the base of a callee
  int64_t bytes = 0;
};

/// A compiled graph bound to sizes: every offset is known before anything runs.
class Layout {
 public:
  Layout(const CompiledGraph& compiled, const Bindings& bindings);
  const UnitLayout& of(const CompiledGraph::Unit& unit) const { return units_.at(&unit); }
  const Bindings& bindings() const { return bindings_; }
  /// Of the arena: inputs, outputs and everything between.
  int64_t bytes() const { return bytes_; }
  int64_t input_offset(size_t i) const { return inputs_[i]; }
  int64_t output_offset(size_t i) const { return outputs_[i]; }

 private:
  void lay_out(const CompiledGraph::Unit& unit, Engine& engine);
  Bindings bindings_;
  std::map<const CompiledGraph::Unit*, UnitLayout> units_;
  std::vector<int64_t> inputs_, outputs_;
  int64_t bytes_ = 0;
};

/// A launch list: a layout with the addresses of weights and arena filled in.
class Plan {
 public:
  Plan(const CompiledGraph& compiled, const Layout& layout, const BoundWeights& weights, Arena& arena);
  /// Copies the inputs in (by name, converted to their types), runs, and copies the outputs, in order. Code::InvalidArgument
  /// names an input that is missing or has another shape than was bound.
  std::vector<Tensor> run(const std::map<std::string, Tensor>& inputs);

  /// One step of one call of a block.
  struct Launch {
    const char* kind;  ///< "linear", "conv", "attention", "kernel", ...
    std::function<void()> run;
    const CompiledGraph::Unit* unit;
    size_t step;  ///< of the unit's program
    double seconds = 0;
  };
  /// In the order in which they run. Running them one by one repeats the last run.
  const std::vector<Launch>& launches() const { return launches_; }

  /// Whether runs are timed from now on, step by step.
  void measure(bool on) { measuring_ = on; }
  /// Seconds by kind of step, of all measured runs.
  std::map<std::string, double> measured() const;

 private:
  class Builder;
  const CompiledGraph& compiled_;
  Bindings bindings_;
  std::vector<Launch> launches_;
  std::vector<char*> inputs_, outputs_;
  bool measuring_ = false;
};

}  // namespace sinter::cpu
