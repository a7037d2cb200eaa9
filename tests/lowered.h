#pragma once
#include <vector>

#include "compiler/lowering/lower.h"

namespace sinter {

/// A graph's program, checked, with the graph that it refers to.
struct Lowered {
  Graph graph;
  Program program;
  Lowered(const Graph& source, const LowerOptions& options) {
    legalise(source, graph, options);
    program = lower(graph, options);
    validate(program, graph);
  }
  /// Its steps of one kind.
  template <class StepType>
  std::vector<const StepType*> all() const {
    std::vector<const StepType*> found;
    for (const Step& step : program.steps)
      if (auto* one = std::get_if<StepType>(&step)) found.push_back(one);
    return found;
  }
};

}  // namespace sinter
