#include "backends/cuda/attention_by_products.h"
#include "backends/cuda/calls/attention.h"
#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/launch_steps.h"

namespace sinter::cuda {
namespace {

/// cuDNN's kernel for wider heads takes 7.4 ms where two products and a softmax take 2 (one head of 512, 16384 tokens), and for
/// f32 it has none that keeps all digits.
bool keeps_scores(const AttentionStep& step, const Bindings& bindings) {
  constexpr int64_t kWidestFlash = 256;
  int64_t d = step.d.value(bindings);
  return d > kWidestFlash || d % 8 != 0 || step.in == DType::f32;
}

int64_t scores_bytes(const AttentionStep& step, const Bindings& bindings) {
  AttentionCall call;
  call.heads = step.heads.value(bindings), call.queries = step.queries.value(bindings), call.keys = step.keys.value(bindings);
  call.type = step.in;
  return attention_workspace_bytes(call, true);
}

}  // namespace

int64_t scratch_bytes(const AttentionStep& step, const Bindings& bindings, const Engine&) {
  return keeps_scores(step, bindings) ? scores_bytes(step, bindings) : 0;
}

void LaunchBuilder::add_step(const Instance& in, const AttentionStep& step) {
  auto strides = [&](const HeadPlace& p) { return HeadStrides{in(p.b), in(p.t), in(p.h)}; };
  AttentionShape shape;
  shape.b = in(step.b), shape.heads = in(step.heads), shape.queries = in(step.queries), shape.keys = in(step.keys);
  shape.d = in(step.d), shape.type = step.in, shape.causal = step.causal, shape.allow_tf32 = engine_.options().allow_tf32;
  shape.q = strides(step.q), shape.k = strides(step.k), shape.v = strides(step.v), shape.out = strides(step.out);
  if (shape.b * shape.heads * shape.queries == 0) return;
  if (step.in == DType::f8e4m3) return add_fp8_attention(in, step, shape);
  AttentionBuffers buffers;
  buffers.q = address(in, step.q.at, step.in), buffers.k = address(in, step.k.at, step.in);
  buffers.v = address(in, step.v.at, step.in), buffers.out = address(in, step.out.at, step.out_type);
  buffers.scale = float(step.scale);
  int64_t bias_key_stride = 1;
  if (step.biased) {
    shape.bias = AttentionBias{DType::f32, strides(step.bias)};
    buffers.bias = address(in, step.bias.at, DType::f32);
    bias_key_stride = in(step.bias_key_stride);
  }
  const bool keeps = keeps_scores(step, in.bindings);
  const bool tf32 = step.in == DType::f32 && engine_.options().allow_tf32;
  bool vendor_can = step.in == step.out_type && bias_key_stride == 1 && (!keeps || tf32);
  if (vendor_can &&
      add_vendor_call("attention", shape, buffers, plan_attention, prepare_attention, engine_.options().tune).why_none.empty())
    return;
  AttentionCall own = own_call(shape, buffers);
  own.bias_key_stride = bias_key_stride;
  foresee([&](KernelTarget& target) {
    keeps ? attention_by_products(target, own, [](const MatmulCall&) {}) : attention(target, own);
  });
  if (collecting_) return;
  if (keeps) {
    own.workspace = in.scratch();
    auto products = std::make_shared<AttentionByProducts>(engine_, own);
    if (*products) {
      auto bind = [products, scores = own.workspace](const Workspace& workspace) { return products->bind(scores, workspace); };
      return call("attention", shape.text() + " by products", products->workspace_bytes(), bind);
    }
  }
  if (keeps) foresee([&](KernelTarget& target) { attention(target, own); });
  const int64_t bytes = attention_workspace_bytes(own, attention_keeps_scores(own));
  call("attention (own)", shape.text(), bytes, [=, e = &engine_](const Workspace& workspace) {
    AttentionCall bound = own;
    bound.workspace = workspace.address;
    return [=] { attention(e->kernel_target(), bound); };
  });
}

void LaunchBuilder::add_fp8_attention(const Instance& in, const AttentionStep& step, const AttentionShape& shape) {
  const DevicePtr numbers = engine_.fp8_attention_numbers(), one = numbers;
  auto number = [&](int i) { return numbers + DevicePtr(i) * sizeof(float); };
  Fp8AttentionBuffers buffers;
  buffers.q = address(in, step.q.at, step.in), buffers.k = address(in, step.k.at, step.in);
  buffers.v = address(in, step.v.at, step.in), buffers.out = address(in, step.out.at, step.out_type);
  buffers.descale_q = buffers.descale_k = address(in, step.unit, DType::f32);
  buffers.descale_v = buffers.scale_out = one;  // the result stays in the units of v
  buffers.scale_s = number(1), buffers.descale_s = number(2);
  buffers.largest_s = number(3), buffers.largest_out = number(4);
  buffers.scale = float(step.scale);
  std::string why =
      add_vendor_call("attention", shape, buffers, plan_fp8_attention, prepare_fp8_attention, engine_.options().tune).why_none;
  if (!why.empty())
    fail(Code::Unsupported, "no f8e4m3 attention {}: {}; --attention-dtype auto works without", shape.text(), why);
}

}  // namespace sinter::cuda
