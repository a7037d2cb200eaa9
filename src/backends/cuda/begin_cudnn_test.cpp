// When cuDNN is made ready ahead of the first call that is its, against the made-up driver and libraries of tests/fake_cuda: in
// processes of their own, since a process opens a library once.
#include <dlfcn.h>

#include "backends/cuda/plan.h"
#include "graph/ops.h"
#include "made_up_driver.h"

namespace sinter::cuda {
namespace {

/// What the made-up library was asked since the last call of this; nothing where it is not open.
std::string counts() {
  static std::map<std::string, int> before;
  auto count = [](const char* what) {
    const auto function = reinterpret_cast<int (*)()>(dlsym(RTLD_DEFAULT, fmt::format("made_up_cudnn_{}", what).c_str()));
    const int now = function ? function() : 0;
    return now - std::exchange(before[what], now);
  };
  return fmt::format("{} questions, {} answers, {} handles made, {} gone", count("questions"), count("answers"),
                     count("handles_made"), count("handles_gone"));
}
const std::string kNothing = "0 questions, 0 answers, 0 handles made, 0 gone",
                  kOneQuestion = "1 questions, 1 answers, 0 handles made, 0 gone";

/// What it counts until a Vendor is gone of which cuDNN has been begun so often.
std::string begun(int times) {
  {
    Context context(1);
    Vendor vendor(context, nullptr);
    for (int i = 0; i < times; ++i) vendor.begin_cudnn();
  }
  return counts();
}

/// Runs a convolution or a linear layer, again at another size, and its whole engine ends.
std::string run(bool convolution, EngineOptions options) {
  {
    Cache cache{{.memory_only = true}};
    Engine engine(cache, 1, 1, options);
    Graph graph;
    const Dim side = Dim::symbol("side");
    const DType type = convolution ? DType::bf16 : DType::f32;  // of which the made-up library makes products
    const Value x = graph.input("x", {type, {2, side, side, 64}});
    const int64_t window = convolution ? 3 : 1;
    const Value filters = graph.weight("w", {type, {160, 64, window, window}});
    const int64_t padding = window / 2;
    graph.output("y", conv2d(x, filters, {.stride = 1, .top = padding, .left = padding, .bottom = padding, .right = padding}));
    CompileReport report;
    const CompiledGraph compiled(engine, graph, {}, report);
    BoundWeights weights(engine, compiled);
    weights.fill_random(1);
    std::vector<SymbolId> symbols;
    side.collect_symbols(symbols);
    for (int64_t size : {32, 64}) {
      const Layout layout(compiled, {{symbols.at(0), size}});
      Plan plan(engine, compiled, layout, weights);
      for (int runs = 0; runs < 2; ++runs) plan.run({{"x", Tensor(DType::f32, {2, size, size, 64})}});
      for (const Launch& launch : plan.launches()) CHECK((launch.detail.find(", ours") != std::string::npos) == convolution);
    }
  }
  return counts();
}

TEST_CASE("made-up cuDNN: what is begun" * doctest::skip()) {
  CHECK(begun(1) == kOneQuestion);
  CHECK(begun(3) == kOneQuestion);
  Context context(1);
  {
    Vendor vendor(context, nullptr);
    Vendor::PlanningHandle handle(vendor);
    vendor.begin_cudnn();
  }
  CHECK(counts() == "0 questions, 0 answers, 1 handles made, 1 gone");
}

TEST_CASE("cuDNN is begun once, by a question that takes no handle, and not where it runs") {
  run_on_made_up_driver(fmt::format("SINTER_CUDA_LIBRARIES={} FAKE_CUDA_VERSION=13000", made_up_library("fake_cudnn")),
                        "made-up cuDNN: what is begun");
}

TEST_CASE("made-up cuDNN: a slow question" * doctest::skip()) { CHECK(begun(1) == kOneQuestion); }

TEST_CASE("the thread that begins cuDNN ends before the vendor is gone") {
  run_on_made_up_driver(
      fmt::format("SINTER_CUDA_LIBRARIES={} FAKE_CUDA_VERSION=13000 FAKE_CUDNN_DELAY=300", made_up_library("fake_cudnn")),
      "made-up cuDNN: a slow question");
}

TEST_CASE("made-up cuDNN: broken or missing" * doctest::skip()) { CHECK(begun(1) == kNothing); }

TEST_CASE("where cuDNN is broken, or made for a newer driver, beginning it fails nothing") {
  const std::string library = made_up_library("fake_cudnn");
  for (const char* why : {"FAKE_CUDA_VERSION=13000 FAKE_CUDNN_FAIL=1", "FAKE_CUDA_VERSION=11080"})
    run_on_made_up_driver(fmt::format("SINTER_CUDA_LIBRARIES={} {}", library, why), "made-up cuDNN: broken or missing");
}

TEST_CASE("made-up cuDNN: runs" * doctest::skip()) {
  for (bool tune : {false, true}) {
    CAPTURE(tune);
    CHECK(run(true, {.tune = tune, .many_sizes = true}) == kOneQuestion);
    CHECK(run(true, {.tune = tune}) == kNothing);
    CHECK(run(false, {.tune = tune, .many_sizes = true}) == kNothing);
  }
}

TEST_CASE(
    "a run whose convolutions are all ours has cuDNN ready for another size where one may come, and one without convolutions has "
    "not") {
  run_on_made_up_driver(fmt::format("SINTER_CUDA_LIBRARIES={}:{} FAKE_CUDA_VERSION=13000", made_up_library("fake_cudnn"),
                                    made_up_library("fake_cublaslt")),
                        "made-up cuDNN: runs");
}

}  // namespace
}  // namespace sinter::cuda
