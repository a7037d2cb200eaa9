// Which launches a plan makes of a convolution and its shortcut, against the made-up driver of tests/fake_cuda; and their result,
// on a device that has such kernels.
#include <cmath>

#include "backends/cuda/calls/shortcut.h"
#include "backends/cuda/plan.h"
#include "backends/cuda/test_device.h"
#include "graph/interpreter.h"
#include "graph/ops.h"
#include "made_up_driver.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kIn = 64, kMore = 136, kOut = 160, kSide = 32;

Value conv(Graph& g, Value x, int64_t kernel, const std::string& name) {
  const int64_t padding = kernel / 2;
  auto weight = [&](const char* end, Shape shape) { return g.weight(name + end, {x.dtype(), shape}); };
  Value y = conv2d(x, weight(".w", {kOut, x.dim(-1), kernel, kernel}),
                   {.stride = 1, .top = padding, .left = padding, .bottom = padding, .right = padding});
  return y + broadcast(weight(".b", {kOut}), y.shape());
}

/// The end of a residual block.
enum class End {
  Result,    ///< of the graph
  GoesOn,    ///< the sum is used once more
  Overlaps,  ///< what the window reads is free when the sum is written, which lies there
};
void build(Graph& g, DType type, End end) {
  Value h = g.input("h", {type, {2, kSide, kSide, kIn}}), x = g.input("x", {type, {2, kSide, kSide, kMore}});
  if (end == End::Overlaps) h = silu(h);
  Value y = conv(g, x, 1, "skip") + conv(g, h, 3, "window");
  g.output("y", end == End::Result ? y : conv(g, y, 3, "next"));
}

struct Planned {
  Cache cache{{.memory_only = true}};
  Engine engine;
  Graph graph;
  CompileReport report;
  CompiledGraph compiled;
  std::unique_ptr<sinter::BoundWeights> weights;
  std::unique_ptr<sinter::Plan> plan;

  Planned(int ordinal, EngineOptions options, End end, const WeightReader& read)
      : engine(cache, 1, ordinal, options),
        compiled(engine, (build(graph, DType::bf16, end), graph), {.label = "test"}, report),
        weights(engine.bind_weights(compiled)) {
    weights->load(read);
    plan_again();
  }
  void plan_again() { plan = engine.plan(compiled, Layout(compiled, {}), *weights); }
  int count(const std::string& word) {
    int found = 0;
    for (const Launch& launch : static_cast<Plan&>(*plan).launches())
      found += (launch.kind + (" " + launch.detail)).find(word) != std::string::npos;
    return found;
  }
};

Tensor random_tensor(std::vector<int64_t> shape, uint32_t seed, float size = 1) {
  Tensor t(DType::f32, std::move(shape));
  for (float& x : t.f32()) seed = seed * 1664525 + 1013904223, x = size * float(int32_t(seed)) * 0x1p-31f;
  return t;
}
Tensor weight(const std::string& name) {
  const int64_t in = name.starts_with("skip")     ? kMore
                     : name.starts_with("window") ? kIn
                                                  : kOut,
                kernel = name.starts_with("skip") ? 1 : 3;
  if (name.ends_with(".b")) return random_tensor({kOut}, uint32_t(name[0]));
  return random_tensor({kOut, in, kernel, kernel}, uint32_t(name[0]) + 1, float(1 / std::sqrt(double(in * kernel * kernel))));
}

std::map<std::string, Tensor> random_inputs() {
  return {{"h", random_tensor({2, kSide, kSide, kIn}, 1)}, {"x", random_tensor({2, kSide, kSide, kMore}, 2)}};
}

TEST_CASE("made-up Hopper: launches with shortcuts" * doctest::skip()) {
  for (bool tune : {false, true})
    for (End end : {End::Result, End::GoesOn, End::Overlaps}) {
      CAPTURE(tune);
      CAPTURE(int(end));
      Planned planned(1, {.tune = tune}, end, weight);
      const int found = end != End::Overlaps;
      CHECK(planned.count("shortcut 136 by 136 bias") == found);
      CHECK(planned.count("linear") == 1 - found);
      CHECK(planned.count("conv") == (end == End::Result ? 1 : 2));
      for (int run = 0; run < 3; ++run) planned.plan->run(random_inputs());
      planned.plan_again();  // as was chosen before
      CHECK(planned.count("shortcut 136 by 136 bias") == found);
    }
}

TEST_CASE("a plan makes a convolution and its shortcut one launch, timed or not, but where its result lies in what it reads") {
  run_on_made_up_driver("FAKE_CUDA_VERSION=12000", "made-up Hopper: launches with shortcuts");
}

TEST_CASE("a convolution with its shortcut agrees with the interpreter, timed or not") {
  TestDevice* device = test_device_that([](const DeviceInfo& info) {
    const ConvShape window{.n = 2, .c = kIn, .out_c = kOut, .axes = {{.in = kSide}, {.in = kSide}}};
    const LinearShape skip{.m = 2 * kSide * kSide, .n = kOut, .k = kMore, .residual = true};
    return why_no_shortcut(window, skip, info);
  });
  if (!device) return;
  for (End end : {End::Result, End::GoesOn, End::Overlaps}) {
    Graph exact;
    build(exact, DType::f32, end);
    const Tensor expected = interpret(exact, random_inputs(), weight, {})[0];
    for (bool tune : {false, true}) {
      Planned planned(0, {.tune = tune}, end, weight);
      MESSAGE(fmt::format("timed {}: {} launches, {} with a shortcut", tune, planned.count(""), planned.count("shortcut")));
      for (int run = 0; run < 3; ++run)
        CHECK(relative_error(planned.plan->run(random_inputs())[0].to(DType::f32), expected) < 0.01);
    }
  }
}

}  // namespace
}  // namespace sinter::cuda
