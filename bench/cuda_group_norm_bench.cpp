// Group norms with SiLU at the U-Nets' sizes, each fed by the one before, as plans run them: replayed as one device graph.
//   cuda_group_norm_bench [bf16|f16] [plain] [SIDExCHANNELS ...]
// plain: without SiLU. Sizes: two pictures of each; none: those of the U-Nets.
// Prints the microseconds and launches of one, and how fast it reads and writes its map once.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <utility>

#include "backends/cuda/plan.h"
#include "graph/ops.h"

using namespace sinter;

namespace {

constexpr int kChain = 20;

/// `count` of them behind each other.
struct Chain {
  Graph graph;
  Bindings sizes;
  Chain(int64_t batch, int64_t side, int64_t channels, DType type, bool plain) {
    Dim n = Dim::symbol("bench_batch"), s = Dim::symbol("bench_side");
    for (auto [dim, size] : {std::pair{n, batch}, {s, side}}) {
      std::vector<SymbolId> symbols;
      dim.collect_symbols(symbols);
      sizes[symbols.at(0)] = size;
    }
    Value x = graph.input("x", {type, {n, s, s, channels}});
    Value gamma = graph.weight("gamma", {type, {channels}}), beta = graph.weight("beta", {type, {channels}});
    for (int i = 0; i < kChain; ++i) {
      x = group_norm(x, gamma, beta, 32, 1e-5);
      if (!plain) x = silu(x);
    }
    graph.output("y", x);
  }
};

void bench(cuda::Engine& engine, int64_t batch, int64_t side, int64_t channels, DType type, bool plain) {
  Chain chain(batch, side, channels, type, plain);
  CompileReport report;
  CompiledGraph compiled(engine, chain.graph, {.label = "group norms"}, report);
  cuda::BoundWeights weights(engine, compiled);
  weights.fill_random(1);
  Layout layout(compiled, chain.sizes);
  cuda::Plan plan(engine, compiled, layout, weights);
  plan.run({{"x", Tensor(DType::f32, {batch, side, side, channels})}});
  plan.submit();
  cuda::Event begin(engine.context(), cuda::Event::Timing::Yes), end(engine.context(), cuda::Event::Timing::Yes);
  double best = 1e30;
  for (int round = 0; round < 5; ++round) {
    constexpr int kReplays = 10;
    begin.record(engine.stream());
    for (int i = 0; i < kReplays; ++i) plan.submit();
    end.record(engine.stream());
    end.synchronize();
    best = std::min(best, end.milliseconds_since(begin) * 1e-3 / (kReplays * kChain));
  }
  const double bytes = double(2 * batch * side * side * channels * byte_size(type));
  fmt::print("{:>2} x {:>5} x {:>5} {:>5} {:>8.2f} us {:>6.1f} launches {:>7.0f} GB/s\n", batch, side * side, channels,
             name(type), best * 1e6, double(plan.launches().size()) / kChain, bytes / best * 1e-9);
  std::fflush(stdout);
}

struct Size {
  int64_t side, channels;
};
Size size_of(const std::string& text) {
  Size size = {};
  char after = 0;
  if (std::sscanf(text.c_str(), "%ldx%ld%c", &size.side, &size.channels, &after) != 2 || size.side < 1 || size.channels < 1)
    fail(Code::InvalidArgument, "'{}' is no size; sizes are SIDExCHANNELS, 64x320 for example", text);
  return size;
}

}  // namespace

int main(int count, char** arguments) {
  try {
    DType type = DType::bf16;
    bool plain = false;
    std::vector<Size> sizes;
    for (int i = 1; i < count; ++i) {
      const std::string argument = arguments[i];
      if (argument == "bf16" || argument == "f16")
        type = argument == "f16" ? DType::f16 : DType::bf16;
      else if (argument == "plain")
        plain = true;
      else
        sizes.push_back(size_of(argument));
    }
    Cache cache({.memory_only = true});
    cuda::Engine engine(cache, 0, 0);
    for (auto [side, channels] : sizes) bench(engine, 2, side, channels, type, plain);
    if (!sizes.empty()) return 0;
    for (auto [side, channels] : {Size{8, 1280}, {8, 2560},  {16, 640},  {16, 1280}, {16, 1920}, {16, 2560}, {32, 320},
                                  {32, 640},     {32, 960},  {32, 1280}, {32, 1920}, {32, 2560}, {64, 320},  {64, 640},
                                  {64, 960},     {64, 1280}, {64, 1920}, {128, 320}, {128, 640}, {128, 960}})
      bench(engine, 2, side, channels, type, plain);
    for (auto [side, channels] : {Size{32, 1280}, {64, 320}, {128, 512}}) bench(engine, 1, side, channels, type, plain);
  } catch (const Error& e) {
    fmt::print(stderr, "{}\n", e.message());
    return 1;
  }
}
