// What is compiled ahead of a first run, on the made-up driver of tests/fake_cuda: a process of its own, since a process opens a
// driver once.
#include <doctest/doctest.h>

#include "backends/cuda/engine.h"
#include "backends/cuda/plan.h"
#include "backends/cuda/weights.h"
#include "base/spans.h"
#include "graph/ops.h"
#include "made_up_driver.h"
#include "models/unet.h"
#include "models/vae_image.h"

namespace sinter::cuda {
namespace {

/// The bindings of a graph whose symbols are batch, height, width (and tokens of text).
struct Sizes {
  Dim batch = Dim::symbol("batch"), height = Dim::symbol("height"), width = Dim::symbol("width"), text = Dim::symbol("text");
  Bindings bound;
  Sizes() {
    for (auto [dim, value] : {std::pair(batch, 1), {height, 8}, {width, 8}, {text, 7}}) {
      std::vector<SymbolId> symbols;
      dim.collect_symbols(symbols);
      bound[symbols.at(0)] = value;
    }
  }
};

std::map<std::string, Tensor> inputs_of(const Graph& graph, const Bindings& sizes) {
  std::map<std::string, Tensor> inputs;
  for (Value input : graph.inputs()) {
    std::vector<int64_t> shape;
    for (const Dim& dim : input.shape()) shape.push_back(dim.value(sizes));
    inputs[input->attrs.as<NameAttrs>().name] = Tensor(DType::f32, shape);
  }
  return inputs;
}

/// Runs it once, and gives the kernels that were compiled by the thread that ran it, while the device waited.
std::string compiled_late(const Graph& graph, const Bindings& sizes, bool tune) {
  Cache cache{{.memory_only = true}};
  Engine engine(cache, 3, 1, {.tune = tune});
  CompileReport report;
  const CompiledGraph compiled(engine, graph, {}, report);
  BoundWeights weights(engine, compiled);
  weights.fill_random(1);
  const Layout layout(compiled, sizes);
  Plan plan(engine, compiled, layout, weights);
  record_spans();
  int here = 0;
  {
    const Span first("run");
    plan.run(inputs_of(graph, sizes));
  }
  const std::vector<SpanRecord> spans = recorded_spans();
  for (const SpanRecord& s : spans)
    if (s.kind == std::string_view("run")) here = s.thread;
  std::string late;
  int compiles = 0;
  for (const SpanRecord& s : spans)
    if (s.kind == std::string_view("compile")) {
      ++compiles;
      if (s.thread == here) late += s.detail + "\n";
    }
  CHECK(compiles > 3);
  CHECK(plan.launches().size() > 20);
  return late;
}

TEST_CASE("made-up driver: first runs" * doctest::skip()) {
  for (bool tune : {false, true})
    for (DType type : {DType::bf16, DType::f32}) {
      CAPTURE(tune);
      CAPTURE(name(type));
      const Sizes sizes;
      Graph decoder, unet;
      build_vae_decoder(decoder, {.channels = {32, 64}, .post_quant_conv = true}, sizes.batch, sizes.height, sizes.width,
                        {.compute = type});
      CHECK(compiled_late(decoder, sizes.bound, tune) == "");
      UnetConfig config{.channels = 32, .context_width = 16, .heads = 2};
      config.levels = {{.channels = 32, .down_depths = {1}, .up_depths = {1, 1}},
                       {.channels = 64, .down_depths = {0}, .up_depths = {0, 0}}};
      build_unet(unet, config, {sizes.batch, sizes.height, sizes.width, sizes.text}, {.compute = type});
      CHECK(compiled_late(unet, sizes.bound, tune) == "");
    }
}

TEST_CASE("no kernel that a first run launches is compiled only then") {
  run_on_made_up_driver("FAKE_CUDA_VERSION=11080", "made-up driver: first runs");
}

/// Whether what a convolution needs at some sizes only was compiled by another thread when its first run, at another size, had
/// ended.
bool is_ready_for_other_sizes(bool many_sizes) {
  Cache cache{{.memory_only = true}};
  Engine engine(cache, 1, 1, {.many_sizes = many_sizes});
  Graph graph;
  const Value x = graph.input("x", {DType::bf16, {2, 64, 64, 320}}), filters = graph.weight("w", {DType::bf16, {320, 320, 3, 3}});
  graph.output("y", conv2d(x, filters, {.stride = 1, .top = 1, .left = 1, .bottom = 1, .right = 1}));
  record_spans();
  CompileReport report;
  const CompiledGraph compiled(engine, graph, {}, report);
  BoundWeights weights(engine, compiled);
  weights.fill_random(1);
  const Layout layout(compiled, {});
  Plan plan(engine, compiled, layout, weights);
  plan.run({{"x", Tensor(DType::f32, {2, 64, 64, 320})}});
  { const Span here("here"); }
  engine.kernels().function("tile_taps_160_bf16__plain");
  int here = -1, compiles = -1;
  for (const SpanRecord& s : recorded_spans()) {
    if (s.kind == std::string_view("here")) here = s.thread;
    if (s.kind == std::string_view("compile") && s.detail == "tile_taps_160_bf16__plain") compiles = s.thread;
  }
  REQUIRE(here >= 0);
  REQUIRE(compiles >= 0);
  return compiles != here;
}

TEST_CASE("made-up driver: other sizes" * doctest::skip()) {
  CHECK(is_ready_for_other_sizes(true));
  CHECK(!is_ready_for_other_sizes(false));
}

TEST_CASE("what only other sizes need is compiled ahead where they will come, and not where they will not") {
  run_on_made_up_driver(fmt::format("SINTER_CUDA_LIBRARIES={} FAKE_CUDA_VERSION=13000", made_up_library("fake_cublaslt")),
                        "made-up driver: other sizes");
}

}  // namespace
}  // namespace sinter::cuda
