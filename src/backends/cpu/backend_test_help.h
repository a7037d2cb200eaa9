#pragma once
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backends/cpu/plan.h"
#include "graph/interpreter.h"
#include "tensor_distance.h"

namespace sinter::cpu {

/// What all CPU backend tests of a process share: compiled matrix kernels, buffers.
struct TestBackend {
  Cache cache{{.memory_only = true}};
  Engine engine;
  explicit TestBackend(int threads) : engine(cache, threads) { engine.microkernels(); }

  static TestBackend& with_threads(int threads) {
    static TestBackend one(1), four(4);
    return threads == 1 ? one : four;
  }
};

/// A graph with all that it takes to run it.
struct TestCase {
  const Graph* graph;
  std::map<std::string, Tensor> inputs;
  WeightReader weights;
  Bindings bindings;
};

struct TestRun {
  std::vector<Tensor> outputs;
  bool stayed_inside = true;  ///< nothing behind the layout's end was written
};

/// Runs it in buffers full of NaN: whatever is read before it is written shows.
inline TestRun run_compiled(const TestCase& test, TestBackend& backend, const CompiledGraph& compiled) {
  constexpr size_t kBehind = 1 << 16;
  BoundWeights weights(backend.engine, compiled);
  weights.load(test.weights);
  Layout layout(compiled, test.bindings);
  Plan plan(backend.engine, compiled, layout, weights);
  char* end = backend.engine.arena().base() + layout.bytes();
  std::memset(backend.engine.arena().base(), 0xff, size_t(layout.bytes()) + kBehind);
  TestRun run{plan.run(test.inputs)};
  run.stayed_inside = std::all_of(end, end + kBehind, [](char c) { return c == char(0xff); });
  return run;
}

inline TestRun run_on(TestBackend& backend, const TestCase& test, bool fuse) {
  CompileReport report;
  CompiledGraph compiled(backend.engine, *test.graph, {fuse}, report);
  return run_compiled(test, backend, compiled);
}

}  // namespace sinter::cpu
