#include <doctest/doctest.h>

#include <cstring>
#include <random>

#include "backends/cuda/test_device.h"
#include "models/scope.h"
#include "pipelines/network.h"

using namespace sinter;

namespace {

constexpr int64_t kWidth = 256;
constexpr int kBlocks = 7;

/// Seven blocks of one linear layer each between two layers of the graph itself.
std::unique_ptr<Graph> chain(const BuildOptions& build) {
  auto graph = std::make_unique<Graph>();
  Scope s(*graph, build);
  Value x = cast(graph->input("x", {DType::f32, {Dim::symbol("streamed_rows"), kWidth}}), build.compute);
  x = linear_layer(s / "in", x, kWidth);
  for (int i = 0; i < kBlocks; ++i)
    x = (s / "blocks" / i).block("chain block", {x}, [&](Scope b, std::vector<Value> v) {
      return std::vector<Value>{v[0] + gelu(linear_layer(b / "fc", layer_norm_layer(b / "norm", v[0]), kWidth))};
    })[0];
  graph->output("y", cast(linear_layer(s / "out", x, kWidth), DType::f32));
  return graph;
}

/// Random weights of their own for each name and `version`.
struct RandomWeights {
  int version = 1;
  Tensor operator()(const std::string& name) const {
    std::mt19937 random(uint32_t(std::hash<std::string>()(name)) + uint32_t(version));
    std::normal_distribution<float> normal(0, 1 / std::sqrt(float(kWidth)));
    Tensor t(DType::f32, name.ends_with("bias") || name.find("norm") != name.npos ? std::vector<int64_t>{kWidth}
                                                                                  : std::vector<int64_t>{kWidth, kWidth});
    for (float& v : t.f32()) v = normal(random);
    return t;
  }
};

Tensor some_rows(int64_t count) {
  Tensor x(DType::f32, {count, kWidth});
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  for (float& v : x.f32()) v = normal(random);
  return x;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), size_t(a.bytes())) == 0;
}

SessionOptions on_gpu() {
  SessionOptions options{.backend = Backend::Native, .threads = 2};
  options.device.kind = DeviceChoice::Kind::Cuda;
  return options;
}

}  // namespace

TEST_CASE("streamed blocks give the bits of resident ones, in every run and at every size, and take less of the device") {
  if (!cuda::test_device()) return;
  for (DType compute : {DType::f32, DType::bf16}) {  // f32: straight from the tensors; bf16: from converted copies
    CAPTURE(name(compute));
    Session session(on_gpu(), {.memory_only = true});
    Network resident(session, "resident", chain({compute, [](const std::string&) { return DType::f32; }}), RandomWeights{});
    Network network(session, "streamed", chain({compute, [](const std::string&) { return DType::f32; }}), RandomWeights{});
    Tensor x = some_rows(40), y = some_rows(9);
    Bindings sizes = sizes_of(network.graph(), {{"x", x}});
    Tensor expected_x = resident.run({{"x", x}}).at(0), expected_y = resident.run({{"x", y}}).at(0);
    const WeightSizes weights = network.weight_sizes(sizes);
    REQUIRE(weights.blocks.size() == kBlocks);
    for (std::vector<int> blocks : {std::vector<int>{0, 1, 2, 3, 4, 5, 6}, {1, 3, 5}, {0, 2, 4, 6}, {}}) {
      CAPTURE(blocks.size());
      network.stream_weights(sizes, blocks);
      for (int run = 0; run < 4; ++run) {
        CHECK(same_bits(network.run({{"x", x}}).at(0), expected_x));
        CHECK(same_bits(network.run({{"x", y}}).at(0), expected_y));
      }
      CHECK(network.why_streams_slowly() == "");
    }
  }
}

TEST_CASE("weights that change while they are streamed are streamed as they are now") {
  if (!cuda::test_device()) return;
  Session session(on_gpu(), {.memory_only = true});
  RandomWeights source;
  BuildOptions build{DType::f32, {}};
  Network network(session, "streamed", chain(build), [&](const std::string& name) { return source(name); });
  Tensor x = some_rows(5);
  network.compile(sizes_of(network.graph(), {{"x", x}}));
  network.stream_weights(sizes_of(network.graph(), {{"x", x}}), {0, 1, 2, 3, 4, 5, 6});
  for (int i = 0; i < 3; ++i) network.run({{"x", x}});
  source.version = 2;
  network.weights_changed({"blocks.0.fc.weight", "blocks.4.fc.bias"});
  RandomWeights old;
  Network expected(session, "expected", chain(build), [&](const std::string& name) {
    return name == "blocks.0.fc.weight" || name == "blocks.4.fc.bias" ? source(name) : old(name);
  });
  Tensor y = expected.run({{"x", x}}).at(0);
  for (int i = 0; i < 3; ++i) CHECK(same_bits(network.run({{"x", x}}).at(0), y));
}

TEST_CASE("a cancelled run of streamed blocks leaves the next one right") {
  if (!cuda::test_device()) return;
  Session session(on_gpu(), {.memory_only = true});
  Network network(session, "streamed", chain({DType::f32, {}}), RandomWeights{});
  Tensor x = some_rows(5);
  network.compile(sizes_of(network.graph(), {{"x", x}}));
  network.stream_weights(sizes_of(network.graph(), {{"x", x}}), {0, 1, 2, 3, 4, 5, 6});
  Tensor y = network.run({{"x", x}}).at(0);
  session.engine().cancelled() = true;
  CHECK_THROWS_AS(network.run({{"x", x}}), Error);
  session.engine().cancelled() = false;
  CHECK(same_bits(network.run({{"x", x}}).at(0), y));
}
