#pragma once
#include <doctest/doctest.h>

#include "backends/cuda/engine.h"
#include "compiler/layout.h"
#include "graph/interpreter.h"
#include "graph/ops.h"

namespace sinter {

/// A network of one wish: x[rows, 256] twice through a matrix, so that its buffers are large where `rows` is.
class GrowingNetwork {
 public:
  static constexpr int64_t kWidth = 256;

  explicit GrowingNetwork(cuda::Engine& engine) : engine_(engine) {
    Dim rows = Dim::symbol("growing_rows");
    Value x = graph_.input("x", {DType::f32, {rows, kWidth}});
    Value w = graph_.weight("w", {DType::f32, {kWidth, kWidth}});
    Value y = linear(silu(linear(x, w)), w);
    graph_.output("y", reduce_sum(y, {1}));
    CompileReport report;
    compiled_ = std::make_unique<CompiledGraph>(engine, graph_, CompileOptions{}, report);
    weights_ = engine.bind_weights(*compiled_);
    Tensor unit(DType::f32, {kWidth, kWidth});
    for (int64_t i = 0; i < kWidth; ++i) unit.f32()[size_t(i * (kWidth + 1))] = 1;
    weights_->load(WeightReader([unit](const std::string&) { return unit; }));
  }

  /// Sums of rows of silu(x), with x = 1; as plans of a network are kept, they stay.
  Tensor run(int64_t rows) {
    auto& plan = plans_[rows];
    Tensor x(DType::f32, {rows, kWidth});
    for (float& value : x.f32()) value = 1;
    Bindings bindings;
    bind_shape(graph_.inputs()[0].shape(), x.shape(), "x", bindings);
    if (!plan) plan = engine_.plan(*compiled_, Layout(*compiled_, bindings), *weights_);
    return plan->run({{"x", x}}).at(0);
  }
  int64_t bytes(int64_t rows) const {
    Bindings bindings;
    bind_shape(graph_.inputs()[0].shape(), std::vector<int64_t>{rows, kWidth}, "x", bindings);
    return Layout(*compiled_, bindings).bytes();
  }

 private:
  cuda::Engine& engine_;
  Graph graph_;
  std::unique_ptr<CompiledGraph> compiled_;
  std::unique_ptr<BoundWeights> weights_;
  std::map<int64_t, std::unique_ptr<Plan>> plans_;
};

}  // namespace sinter
