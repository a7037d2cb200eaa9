#pragma once
#include <map>
#include <set>
#include <string>
#include <vector>

#include "compiler/compiled_graph.h"

namespace sinter {

/// Where the temporaries of a unit lie at one binding: offsets in bytes from the unit's base.
struct UnitLayout {
  std::vector<int64_t> temporaries;
  std::vector<int64_t> scratch;  ///< of each step: the workspace of a call, or the base of a callee
  int64_t bytes = 0;
};

/// A compiled graph bound to sizes: the place of every buffer in one arena, known before anything runs.
class Layout {
 public:
  /// Inputs named by `kept` lie in memory of the plan's own, where they stay from run to run.
  Layout(const CompiledGraph& compiled, const Bindings& bindings, const std::set<std::string>& kept = {});
  const UnitLayout& of(const Unit& unit) const { return units_.at(&unit); }
  const Bindings& bindings() const { return bindings_; }
  /// Of the arena: inputs, outputs and everything between.
  int64_t bytes() const { return bytes_; }
  /// Of the kept inputs.
  int64_t kept_bytes() const { return kept_bytes_; }
  bool is_kept(size_t input) const { return is_kept_[input]; }
  /// In the arena, or in the kept memory. Inputs come first in the arena, then outputs.
  int64_t input_offset(size_t i) const { return inputs_[i]; }
  int64_t output_offset(size_t i) const { return outputs_[i]; }
  /// Where the arena's inputs end and outputs begin.
  int64_t input_bytes() const { return input_bytes_; }
  /// Where the temporaries of the graph itself begin.
  int64_t root_offset() const { return root_; }

 private:
  void lay_out(const Unit& unit, Engine& engine);
  Bindings bindings_;
  std::map<const Unit*, UnitLayout> units_;
  std::vector<int64_t> inputs_, outputs_;
  std::vector<bool> is_kept_;
  int64_t bytes_ = 0, kept_bytes_ = 0, input_bytes_ = 0, root_ = 0;
};

}  // namespace sinter
