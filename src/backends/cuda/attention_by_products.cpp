#include "backends/cuda/attention_by_products.h"

#include <algorithm>

#include "backends/cuda/calls/linear.h"

namespace sinter::cuda {
namespace {

LinearShape shape_of(const MatmulCall& c, bool allow_tf32) {
  LinearShape s;
  s.m = c.m, s.n = c.n, s.k = c.k, s.batch = c.batch;
  s.a = s.weights = c.type, s.out = c.epilogue.out_type;
  s.weights_are_kn = c.w_column_stride != 1;
  s.a_stride = c.a_stride, s.weights_stride = s.weights_are_kn ? c.w_column_stride : c.w_stride;
  s.out_stride = c.epilogue.out_stride;
  s.a_batch = c.a_batch_stride, s.weights_batch = c.w_batch_stride, s.out_batch = c.out_batch_stride;
  if (s.a == DType::f32 && allow_tf32) s.compute = LinearCompute::TF32;
  s.lower_alignment({c.a, c.w, c.epilogue.out});
  return s;
}

/// Takes no launches: for walking through what would be done.
class NoLaunches : public KernelTarget {
 public:
  explicit NoLaunches(int multiprocessors) : multiprocessors_(multiprocessors) {}
  void launch(std::string_view, const LaunchShape&, std::span<void* const>) override {}
  int multiprocessors() const override { return multiprocessors_; }

 private:
  int multiprocessors_;
};

}  // namespace

AttentionByProducts::AttentionByProducts(Engine& engine, const AttentionCall& call) : engine_(engine), call_(call) {
  each_product(call, [&](const MatmulCall& c) {
    LinearShape shape = shape_of(c, engine_.options().allow_tf32);
    auto [at, fresh] = plans_.try_emplace(shape.text());
    if (!fresh) return;
    Planned<LinearPlan> plan = plan_linear(engine_.vendor(), shape);
    at->second = plan.plan;
    possible_ = possible_ && plan;
    if (plan) product_bytes_ = std::max(product_bytes_, plan->workspace_bytes());
  });
}

void AttentionByProducts::each_product(const AttentionCall& call, const std::function<void(const MatmulCall&)>& visit) const {
  NoLaunches nothing(engine_.context().device().multiprocessors);
  attention_by_products(nothing, call, visit);
}

std::function<void()> AttentionByProducts::bind(DevicePtr scores, const Workspace& workspace) const {
  AttentionCall call = call_;
  call.workspace = scores;
  std::vector<std::shared_ptr<BoundCall>> products;
  each_product(call, [&](const MatmulCall& c) {
    LinearBuffers buffers{.a = c.a, .weights = c.w, .out = c.epilogue.out, .scale = c.epilogue.scale};
    products.push_back(plans_.at(shape_of(c, engine_.options().allow_tf32).text())->bind(buffers, workspace));
  });
  return [call, products, e = &engine_] {
    size_t next = 0;
    attention_by_products(e->kernel_target(), call, [&](const MatmulCall&) { products[next++]->launch(e->stream()); });
  };
}

}  // namespace sinter::cuda
