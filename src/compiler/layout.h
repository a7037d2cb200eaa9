#pragma once
#include <map>
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
  Layout(const CompiledGraph& compiled, const Bindings& bindings);
  const UnitLayout& of(const Unit& unit) const { return units_.at(&unit); }
  const Bindings& bindings() const { return bindings_; }
  /// Of the arena: inputs, outputs and everything between.
  int64_t bytes() const { return bytes_; }
  int64_t input_offset(size_t i) const { return inputs_[i]; }
  int64_t output_offset(size_t i) const { return outputs_[i]; }
  /// Where the temporaries of the graph itself begin.
  int64_t root_offset() const { return root_; }

 private:
  void lay_out(const Unit& unit, Engine& engine);
  Bindings bindings_;
  std::map<const Unit*, UnitLayout> units_;
  std::vector<int64_t> inputs_, outputs_;
  int64_t bytes_ = 0, root_ = 0;
};

}  // namespace sinter
