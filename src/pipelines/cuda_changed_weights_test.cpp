// Weights that LoRAs change while they are loaded to a GPU, in every form that programs want them in.
#include <doctest/doctest.h>

#include <cstring>

#include "backends/cuda/test_device.h"
#include "fused_host.h"
#include "models/lora.h"
#include "models/scope.h"
#include "pipelines/network.h"
#include "tensor/random.h"

using namespace sinter;

namespace {

constexpr int64_t kWidth = 256;
constexpr int kBlocks = 3;

/// A convolution, then blocks of one linear layer each.
std::unique_ptr<Graph> convolution_and_blocks(DType compute, DType stored) {
  const BuildOptions build{compute, [stored](const std::string&) { return stored; }};
  auto graph = std::make_unique<Graph>();
  Scope s(*graph, build);
  Value x = cast(graph->input("x", {DType::f32, {1, 8, 8, 16}}), compute);
  x = reshape(conv_layer(s / "conv", x, kWidth, 3, 1, 1), {64, kWidth});
  for (int i = 0; i < kBlocks; ++i)
    x = (s / "blocks" / i).block("changed block", {x}, [&](Scope b, std::vector<Value> v) {
      return std::vector<Value>{v[0] + linear_layer(b / "fc", v[0], kWidth)};
    })[0];
  graph->output("y", cast(x, DType::f32));
  return graph;
}

Tensor original(const std::string& name, DType stored) {
  std::vector<int64_t> shape{kWidth};
  if (name == "conv.weight")
    shape = {kWidth, 16, 3, 3};
  else if (name.ends_with("weight"))
    shape = {kWidth, kWidth};
  Tensor t = RandomGenerator(std::hash<std::string>()(name)).randn(shape);
  for (float& v : t.f32()) v *= 0.06f;
  return t.to(stored);
}

/// Two LoRAs for the convolution and all blocks but the second.
LoraStack some_loras(double strength) {
  std::vector<AppliedLora> loras;
  for (int64_t rank : {4, 20}) {
    auto file = std::make_shared<LoraFile>();
    for (const char* name : {"conv.weight", "blocks.0.fc.weight", "blocks.2.fc.weight"}) {
      LoraPatch patch;
      const auto shape = original(name, DType::f32).shape();
      patch.place = {.component = Component::Denoiser, .weight = name, .shape = shape, .begin = 0, .rows = kWidth};
      RandomGenerator random{uint64_t(rank)};
      Tensor up = random.randn({kWidth, rank}), down = random.randn({rank, patch.place.columns()});
      patch.change = LowRankChange{.up = up.to(DType::f16), .down = down.to(DType::f16), .mid = {}};
      patch.scale = 0.01;
      file->patches.push_back(std::move(patch));
    }
    loras.push_back({std::move(file), strength, 1});
  }
  return LoraStack(std::move(loras));
}

/// One network twice: merged by the host, and changed by the device.
struct BothWays {
  LoraStack loras;
  DType stored;
  int made_there = 0;  // weights
  std::unique_ptr<Network> host, device;

  BothWays(Session& session, DType compute, DType stored_as, int64_t fp8_width) : stored(stored_as) {
    auto merged = [this](const std::string& name) {
      return loras.apply(Component::Denoiser, name, original(name, stored), pool, stored);
    };
    auto changed = [this](const std::string& name) -> std::optional<ChangedWeight> {
      Tensor t = original(name, stored);
      auto products = loras.products(Component::Denoiser, name, t);
      if (!products) return {};
      ++made_there;
      return ChangedWeight{std::move(t), std::move(*products)};
    };
    host = std::make_unique<Network>(session, "host", convolution_and_blocks(compute, stored), WeightReader(merged), nullptr,
                                     fp8_width);
    device = std::make_unique<Network>(session, "device", convolution_and_blocks(compute, stored),
                                       WeightReader(merged, {}, changed), nullptr, fp8_width);
  }
  void change(double strength) {
    loras = some_loras(strength);
    for (Network* network : {host.get(), device.get()})
      network->weights_changed({"conv.weight", "blocks.0.fc.weight", "blocks.2.fc.weight"});
  }

 private:
  ThreadPool pool{2};
};

SessionOptions on_gpu() {
  SessionOptions options{.threads = 2};
  options.device.kind = DeviceChoice::Kind::Cuda;
  return options;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), size_t(a.bytes())) == 0;
}

}  // namespace

TEST_CASE("a GPU that changes weights itself computes with the bits of those that the host merged, in every form") {
  if (!cuda::test_device()) return;
  if (!host_fuses_sums()) {
    MESSAGE("skipped: this build's host does not fuse products and sums");
    return;
  }
  struct Case {
    DType compute, stored;
    int64_t fp8_width = 0;
  };
  const Tensor x = RandomGenerator(3).randn({1, 8, 8, 16});
  for (const Case& c : {Case{DType::bf16, DType::bf16}, Case{DType::bf16, DType::f16}, Case{DType::f16, DType::f32},
                        Case{DType::f32, DType::f32}, Case{DType::f32, DType::f16}, Case{DType::bf16, DType::bf16, 256}})
    for (bool streams : {false, true}) {
      CAPTURE(name(c.compute));
      CAPTURE(name(c.stored));
      CAPTURE(c.fp8_width);
      CAPTURE(streams);
      Session session(on_gpu(), {.memory_only = true});
      BothWays both(session, c.compute, c.stored, c.fp8_width);
      const Bindings sizes = sizes_of(both.device->graph(), {{"x", x}});
      both.device->compile(sizes);
      if (streams) both.device->stream_weights(sizes, {0, 1, 2});
      std::vector<Tensor> seen;
      for (double strength : {0.0, 1.0, 0.5}) {
        both.change(strength);
        seen.push_back(both.host->run({{"x", x}}).at(0));
        for (int run = 0; run < 3; ++run) CHECK(same_bits(both.device->run({{"x", x}}).at(0), seen.back()));
      }
      CHECK(relative_error(seen[1], seen[0]) > 1e-3);
      CHECK(relative_error(seen[2], seen[1]) > 1e-3);
      CHECK(both.made_there == 6);
    }
}
