// What the CUDA backend promises: the values of the interpreter, whatever the op.
#include <cmath>

#include "backends/cuda/engine.h"
#include "backends/cuda/test_device.h"
#include "compiler/layout.h"
#include "graph/interpreter.h"
#include "sample_case.h"
#include "tensor_distance.h"

namespace sinter::cuda {
namespace {

/// Kernels compute in f32 and round once, the interpreter rounds after every op.
double tolerance(DType dtype) { return dtype == DType::f32 ? 1e-5 : dtype == DType::f16 ? 1e-2 : 6e-2; }

/// Runs it three times: launch by launch, as a captured graph, and as that graph again.
std::vector<std::vector<Tensor>> run_thrice(Engine& engine, const SampleCase& c, bool fuse) {
  CompileReport report;
  CompiledGraph compiled(engine, c.graph, {fuse}, report);
  auto weights = engine.bind_weights(compiled);
  weights->load(c.reader());
  Layout layout(compiled, {});
  auto plan = engine.plan(compiled, layout, *weights);
  std::vector<std::vector<Tensor>> runs;
  for (int i = 0; i < 3; ++i) runs.push_back(plan->run(c.inputs));
  return runs;
}

void compare_samples(bool fuse) {
  if (!test_device()) return;
  Cache cache{{.memory_only = true}};
  Engine engine(cache, 4, 0);
  for_each_sample([&](const SampleCase& c, DType dtype) {
    std::vector<Tensor> expected = interpret(c.graph, c.inputs, c.reader());
    try {
      for (const auto& found : run_thrice(engine, c, fuse)) CHECK(distance(found.at(0), expected.at(0)) <= tolerance(dtype));
    } catch (const Error& e) {
      CHECK_MESSAGE(false, e.message());
    }
  });
}

TEST_CASE("every op's samples give on CUDA what the interpreter gives, in every type") { compare_samples(true); }

TEST_CASE("every op's samples give on CUDA what the interpreter gives, op by op") { compare_samples(false); }

}  // namespace
}  // namespace sinter::cuda
