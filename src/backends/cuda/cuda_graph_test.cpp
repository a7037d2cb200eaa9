// Whole graphs on a device against the interpreter.
#include <cmath>

#include "backends/cuda/plan.h"
#include "backends/cuda/test_device.h"
#include "graph/interpreter.h"
#include "graph/ops.h"

namespace sinter::cuda {
namespace {

Tensor random_tensor(std::vector<int64_t> shape, uint32_t seed) {
  Tensor t(DType::f32, std::move(shape));
  for (float& x : t.f32()) seed = seed * 1664525 + 1013904223, x = float(int32_t(seed)) * 0x1p-31f;
  return t;
}

/// The largest difference from the interpreter's f32, over the largest value. Three runs: launched one by one, captured,
/// replayed.
double worst_difference(const Graph& graph, const Graph& exact, const std::map<std::string, Tensor>& inputs,
                        const Bindings& sizes, const std::map<std::string, Tensor>& weights, bool tune = false) {
  Cache cache({.memory_only = true});
  Engine engine(cache, 0, 0, {.tune = tune});
  CompileReport report;
  CompiledGraph compiled(engine, graph, {.label = "test"}, report);
  auto bound = engine.bind_weights(compiled);
  auto read = [&](const std::string& name) { return weights.at(name); };
  bound->load(read);
  Layout layout(compiled, sizes);
  auto plan = engine.plan(compiled, layout, *bound);
  const Tensor expected = interpret(exact, inputs, read, sizes)[0];
  double worst = 0, largest = 0;
  for (int run = 0; run < 3; ++run) {
    const Tensor got = plan->run(inputs)[0].to(DType::f32);
    REQUIRE(got.count() == expected.count());
    for (int64_t i = 0; i < got.count(); ++i) {
      const double difference = std::abs(double(got.f32()[size_t(i)]) - expected.f32()[size_t(i)]);
      worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
      largest = std::max(largest, std::abs(double(expected.f32()[size_t(i)])));
    }
  }
  return worst / largest;
}

/// As a decoder's upsampling: a picture at twice its size, a convolution with a bias, and what comes after.
void build_upsampling(Graph& g, DType type, const Dim& height, const Dim& width) {
  Value x = cast(g.input("x", {DType::f32, {2, height, width, 32}}), type);
  Value w = cast(g.weight("w", {DType::f32, {64, 32, 3, 3}}), type), b = cast(g.weight("b", {DType::f32, {64}}), type);
  Value y =
      conv2d(resize_nearest(silu(x), height * 2, width * 2), w, {.stride = 1, .top = 1, .left = 1, .bottom = 1, .right = 1});
  y = y + broadcast(b, y.shape());
  g.output("y", cast(silu(group_norm(y, cast(g.weight("gamma", {DType::f32, {64}}), type),
                                     cast(g.weight("beta", {DType::f32, {64}}), type), 32, 1e-5)),
                     DType::f32));
}

TEST_CASE("a convolution of a picture at twice its size is that of the resized picture, on a device") {
  if (!test_device()) return;
  Dim height = Dim::symbol("graph_height"), width = Dim::symbol("graph_width");
  std::vector<SymbolId> symbols;
  height.collect_symbols(symbols), width.collect_symbols(symbols);
  const std::map<std::string, Tensor> inputs{{"x", random_tensor({2, 13, 10, 32}, 1)}};
  const std::map<std::string, Tensor> weights{{"w", random_tensor({64, 32, 3, 3}, 2)},
                                              {"b", random_tensor({64}, 3)},
                                              {"gamma", random_tensor({64}, 4)},
                                              {"beta", random_tensor({64}, 5)}};
  Graph exact;
  build_upsampling(exact, DType::f32, height, width);
  for (auto [type, tolerance] : {std::pair{DType::f32, 1e-5}, {DType::f16, 0.004}, {DType::bf16, 0.03}}) {
    CAPTURE(name(type));
    Graph graph;
    build_upsampling(graph, type, height, width);
    CHECK(worst_difference(graph, exact, inputs, {{symbols[0], 13}, {symbols[1], 10}}, weights) < tolerance);
  }
}

/// As in a residual block: a vector for each picture is added to all its pixels, and the sum is normalised.
void build_norm(Graph& g, DType type, const Dim& height, const Dim& width) {
  Value x = cast(g.input("x", {DType::f32, {2, height, width, 64}}), type);
  Value time = cast(g.input("time", {DType::f32, {2, 1, 1, 64}}), type);
  auto weight = [&](const char* name) { return cast(g.weight(name, {DType::f32, {64}}), type); };
  Value y = silu(group_norm(x + time, weight("gamma"), weight("beta"), 32, 1e-5));
  g.output("y", cast(group_norm(y, weight("gamma"), weight("beta"), 8, 1e-6), DType::f32));
}

TEST_CASE("a group norm is the same in one launch and, of a larger picture, in two, on a device") {
  if (!test_device()) return;
  Dim height = Dim::symbol("graph_height"), width = Dim::symbol("graph_width");
  std::vector<SymbolId> symbols;
  height.collect_symbols(symbols), width.collect_symbols(symbols);
  const std::map<std::string, Tensor> weights{{"gamma", random_tensor({64}, 4)}, {"beta", random_tensor({64}, 5)}};
  Graph exact;
  build_norm(exact, DType::f32, height, width);
  for (int64_t side : {7, 61, 400}) {
    CAPTURE(side);
    const std::map<std::string, Tensor> inputs{{"x", random_tensor({2, side, side + 1, 64}, 1)},
                                               {"time", random_tensor({2, 1, 1, 64}, 2)}};
    for (auto [type, tolerance] : {std::pair{DType::f16, 0.004}, {DType::bf16, 0.03}}) {
      CAPTURE(name(type));
      Graph graph;
      build_norm(graph, type, height, width);
      CHECK(worst_difference(graph, exact, inputs, {{symbols[0], side}, {symbols[1], side + 1}}, weights) < tolerance);
    }
  }
}

/// As a U-Net's way down and up again: a convolution by 2, whose size is rounded up, and one of its result at the old size.
void build_down_and_up(Graph& g, DType type, const Dim& height, const Dim& width) {
  Value x = cast(g.input("x", {DType::f32, {2, height, width, 32}}), type);
  auto weight = [&](const char* name, Shape shape) { return cast(g.weight(name, {DType::f32, std::move(shape)}), type); };
  auto conv = [&](Value in, const char* name, int64_t stride) {
    return conv2d(in, weight(name, {32, 32, 3, 3}), {.stride = stride, .top = 1, .left = 1, .bottom = 1, .right = 1});
  };
  Value y = conv(resize_nearest(silu(conv(x, "down", 2)), height, width), "up", 1);
  g.output("y", cast(x + silu(y + broadcast(weight("b", {32}), y.shape())), DType::f32));
}

TEST_CASE("a picture that was halved with rounding up is convolved at its old size, even or odd, on a device") {
  if (!test_device()) return;
  Dim height = Dim::symbol("graph_height"), width = Dim::symbol("graph_width");
  std::vector<SymbolId> symbols;
  height.collect_symbols(symbols), width.collect_symbols(symbols);
  const std::map<std::string, Tensor> weights{
      {"down", random_tensor({32, 32, 3, 3}, 2)}, {"up", random_tensor({32, 32, 3, 3}, 4)}, {"b", random_tensor({32}, 3)}};
  Graph exact;
  build_down_and_up(exact, DType::f32, height, width);
  for (auto [type, tolerance] : {std::pair{DType::f32, 1e-5}, {DType::f16, 0.004}, {DType::bf16, 0.03}}) {
    Graph graph;
    build_down_and_up(graph, type, height, width);
    for (auto [h, w] : {std::pair<int64_t, int64_t>{12, 10}, {13, 10}, {12, 9}, {13, 9}, {1, 2}, {2, 2}}) {
      CAPTURE(name(type));
      CAPTURE(h);
      CAPTURE(w);
      const std::map<std::string, Tensor> inputs{{"x", random_tensor({2, h, w, 32}, 1)}};
      CHECK(worst_difference(graph, exact, inputs, {{symbols[0], h}, {symbols[1], w}}, weights) < tolerance);
    }
  }
}

/// As two residual blocks, the second with a linear layer beside it.
void build_residuals(Graph& g, DType type, const Dim& height, const Dim& width, int64_t channels) {
  Value x = cast(g.input("x", {DType::f32, {1, height, width, channels}}), type);
  auto weight = [&](const char* name, Shape shape) { return cast(g.weight(name, {DType::f32, std::move(shape)}), type); };
  auto block = [&](Value in, const char* w, const char* b) {
    Value h = silu(group_norm(in, weight("gamma", {channels}), weight("beta", {channels}), 8, 1e-5));
    h = conv2d(h, weight(w, {channels, channels, 3, 3}), {.top = 1, .left = 1, .bottom = 1, .right = 1});
    return h + broadcast(weight(b, {channels}), h.shape());
  };
  x = x + block(x, "w1", "b1");
  x = linear(x, weight("shortcut", {channels, channels})) + block(x, "w2", "b2");
  g.output("y", cast(silu(group_norm(x, weight("gamma", {channels}), weight("beta", {channels}), 8, 1e-5)), DType::f32));
}

/// How far these are off on a device.
double residual_difference(DType type, int64_t h, int64_t w, int64_t channels, bool tune) {
  Dim height = Dim::symbol("graph_height"), width = Dim::symbol("graph_width");
  std::vector<SymbolId> symbols;
  height.collect_symbols(symbols), width.collect_symbols(symbols);
  std::map<std::string, Tensor> weights{{"shortcut", random_tensor({channels, channels}, 2)}};
  uint32_t seed = 3;
  for (const char* name : {"w1", "w2"}) weights[name] = random_tensor({channels, channels, 3, 3}, seed++);
  for (const char* name : {"b1", "b2", "gamma", "beta"}) weights[name] = random_tensor({channels}, seed++);
  Graph graph, exact;
  build_residuals(graph, type, height, width, channels);
  build_residuals(exact, DType::f32, height, width, channels);
  return worst_difference(graph, exact, {{"x", random_tensor({1, h, w, channels}, 1)}}, {{symbols[0], h}, {symbols[1], w}},
                          weights, tune);
}

TEST_CASE("residuals of convolutions are added with them or after them, timed or not, on a device") {
  if (!test_device()) return;
  for (auto [type, tolerance] : {std::pair{DType::f32, 1e-5}, {DType::f16, 0.006}, {DType::bf16, 0.04}})
    for (bool tune : {false, true}) {
      CAPTURE(name(type));
      CAPTURE(tune);
      CHECK(residual_difference(type, 13, 10, 32, tune) < tolerance);
    }
  CHECK(residual_difference(DType::bf16, 1480, 1424, 16, true) < 0.04);  // so large that cuDNN is to add it
}

/// As a transformer's feed-forward: half of a wide layer's columns gate the other half.
void build_gated(Graph& g, DType type, const Dim& tokens, int64_t width) {
  Value x = cast(g.input("x", {DType::f32, {2, tokens, width}}), type);
  auto weight = [&](const char* name, Shape shape) { return cast(g.weight(name, {DType::f32, std::move(shape)}), type); };
  Value whole = linear(silu(x), weight("w", {320, width})) + weight("b", {320});
  Value gated = slice(whole, 2, 0, 160) * gelu(slice(whole, 2, 160, 160));
  g.output("y", cast(x + linear(gated, weight("out", {width, 160})), DType::f32));
}

TEST_CASE("a gated feed-forward is the same in one product as in two kernels, on a device") {
  if (!test_device()) return;
  Dim tokens = Dim::symbol("graph_tokens");
  std::vector<SymbolId> symbols;
  tokens.collect_symbols(symbols);
  for (int64_t width : {64, 36}) {  // rows of 36 elements do not begin at multiples of 16 bytes: no tile product
    CAPTURE(width);
    const std::map<std::string, Tensor> inputs{{"x", random_tensor({2, 150, width}, 1)}};
    const std::map<std::string, Tensor> weights{
        {"w", random_tensor({320, width}, 2)}, {"b", random_tensor({320}, 3)}, {"out", random_tensor({width, 160}, 4)}};
    Graph exact;
    build_gated(exact, DType::f32, tokens, width);
    for (auto [type, tolerance] : {std::pair{DType::f32, 1e-5}, {DType::f16, 0.004}, {DType::bf16, 0.03}}) {
      CAPTURE(name(type));
      Graph graph;
      build_gated(graph, type, tokens, width);
      CHECK(worst_difference(graph, exact, inputs, {{symbols[0], 150}}, weights) < tolerance);
    }
  }
}

}  // namespace
}  // namespace sinter::cuda
