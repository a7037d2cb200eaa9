#include "backends/cuda/kernels/attention.h"

#include <algorithm>

#include "backends/cuda/kernels/element_types.h"
#include "backends/cuda/kernels/gemm.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

// As in attention.device.cpp.
constexpr int64_t kQueries = 64, kThreads = 128, kPad = 8;
constexpr int64_t kMostGridYz = 65535;
constexpr int64_t kSoftmaxThreads = 256;
constexpr int64_t kScoresBytes = 256 << 20;  // about as much as scores may take at a time

device::HeadsArguments heads(DevicePtr base, const HeadStrides& s) { return {base, s.b, s.t, s.h}; }

bool in_chunks(DevicePtr base, const HeadStrides& s) { return base % 16 == 0 && s.b % 8 == 0 && s.t % 8 == 0 && s.h % 8 == 0; }

int element_type(DType type) { return type == DType::f32 ? device::kF32 : type == DType::f16 ? device::kF16 : device::kBf16; }

device::BiasArguments bias_of(const AttentionCall& c) {
  return {heads(c.bias, c.bias_strides), c.bias_key_stride, element_type(c.bias_type)};
}

int64_t flash_width(const AttentionCall& c) {
  constexpr int64_t kLargest = 256;
  if (c.type == DType::f32 || c.d > kLargest || c.keys == 0 || !lies_in_chunks(c)) return 0;
  return c.d <= 64 ? 64 : c.d <= 128 ? 128 : 256;
}

void flash(KernelTarget& target, const AttentionCall& c, int64_t width) {
  const int64_t keys = width == 256 ? 32 : 64;
  const LaunchShape shape{.grid = {uint32_t(divide_up(c.queries, kQueries)), uint32_t(c.heads), uint32_t(c.b)},
                          .block = {kThreads},
                          .shared_bytes = uint32_t((kQueries + 4 * keys) * (width + kPad) * 2)};
  target(fmt::format("attention__flash_{}_{}", name(c.type), width), shape, device_arguments(c));
}

/// Scores of some queries of all heads of a batch entry, and their probabilities: in the same place for f32.
struct Stored {
  int64_t queries;  // at a time
  int64_t scores_bytes, probabilities_bytes;
};

Stored plan_stored(const AttentionCall& c) {
  const int64_t row = std::max<int64_t>(1, c.heads * c.keys * 4);
  Stored s{};
  s.queries = std::clamp<int64_t>(kScoresBytes / row, 1, std::max<int64_t>(c.queries, 1));
  s.scores_bytes = round_up(s.queries * row, 256);
  s.probabilities_bytes = c.type == DType::f32 ? 0 : round_up(s.queries * row / 4 * byte_size(c.type), 256);
  return s;
}

void stored(KernelTarget& target, const AttentionCall& c, const std::function<void(const MatmulCall&)>& product) {
  const Stored plan = plan_stored(c);
  const int64_t bytes = byte_size(c.type);
  const DevicePtr probabilities = c.type == DType::f32 ? c.workspace : c.workspace + DevicePtr(plan.scores_bytes);
  for (int64_t b = 0; b < c.b; ++b)
    for (int64_t first = 0; first < c.queries; first += plan.queries) {
      const int64_t count = std::min(plan.queries, c.queries - first);
      auto at = [&](DevicePtr base, const HeadStrides& s, int64_t t) { return base + DevicePtr((b * s.b + t * s.t) * bytes); };
      MatmulCall scores{.batch = c.heads, .m = count, .n = c.keys, .k = c.d, .type = c.type};
      scores.a = at(c.q, c.q_strides, first);
      scores.w = at(c.k, c.k_strides, 0);
      scores.a_stride = c.q_strides.t;
      scores.w_stride = c.k_strides.t;
      scores.a_batch_stride = c.q_strides.h;
      scores.w_batch_stride = c.k_strides.h;
      scores.out_batch_stride = count * c.keys;
      scores.epilogue = {.out = c.workspace, .out_type = DType::f32, .scale = c.scale};
      product(scores);

      device::SoftmaxArguments s{.scores = c.workspace, .out = probabilities};
      s.bias = bias_of(c);
      s.b = b;
      s.first_query = int(first);
      s.queries = int(count);
      s.keys = int(c.keys);
      s.causal = c.causal;
      s.type = element_type(c.type);
      const LaunchShape shape{.grid = {uint32_t(count), uint32_t(c.heads)},
                              .block = {kSoftmaxThreads},
                              .shared_bytes = kSoftmaxThreads / 32 * sizeof(float)};
      target("attention__softmax", shape, s);

      MatmulCall sum{.batch = c.heads, .m = count, .n = c.d, .k = c.keys, .type = c.type};
      sum.a = probabilities;
      sum.w = at(c.v, c.v_strides, 0);  // [keys, d]: rows of w are the columns of v
      sum.w_stride = 1;
      sum.w_column_stride = c.v_strides.t;
      sum.a_batch_stride = count * c.keys;
      sum.w_batch_stride = c.v_strides.h;
      sum.out_batch_stride = c.out_strides.h;
      sum.epilogue = {.out = at(c.out, c.out_strides, first), .out_type = c.type, .out_stride = c.out_strides.t};
      product(sum);
    }
}

}  // namespace

bool lies_in_chunks(const AttentionCall& c) {
  return c.d % 8 == 0 && in_chunks(c.q, c.q_strides) && in_chunks(c.k, c.k_strides) && in_chunks(c.v, c.v_strides) &&
         in_chunks(c.out, c.out_strides);
}

device::AttentionArguments device_arguments(const AttentionCall& c) {
  device::AttentionArguments a;
  a.q = heads(c.q, c.q_strides);
  a.k = heads(c.k, c.k_strides);
  a.v = heads(c.v, c.v_strides);
  a.out = heads(c.out, c.out_strides);
  a.bias = bias_of(c);
  a.queries = int(c.queries);
  a.keys = int(c.keys);
  a.d = int(c.d);
  a.causal = c.causal;
  a.scale = c.scale;
  return a;
}

namespace {

void check_call(const AttentionCall& c) {
  for (DType type : {c.type, c.bias_type})
    if (type != DType::f32 && type != DType::f16 && type != DType::bf16)
      fail(Code::Unsupported, "attention: there is no kernel for {}", name(type));
  if (c.heads > kMostGridYz || c.b > kMostGridYz)
    fail(Code::Unsupported, "attention: {} heads of {} batch entries are too many for the built-in kernel", c.heads, c.b);
}

}  // namespace

bool attention_keeps_scores(const AttentionCall& call) {
  check_call(call);
  return flash_width(call) == 0;
}

int64_t attention_workspace_bytes(const AttentionCall& call, bool keep_scores) {
  check_call(call);
  if (!keep_scores) return 0;
  const Stored plan = plan_stored(call);
  return plan.scores_bytes + plan.probabilities_bytes;
}

void attention_by_products(KernelTarget& target, const AttentionCall& c, const std::function<void(const MatmulCall&)>& product) {
  check_call(c);
  if (c.b == 0 || c.heads == 0 || c.queries == 0 || c.d == 0) return;
  stored(target, c, product);
}

void attention(KernelTarget& target, const AttentionCall& c) {
  check_call(c);
  if (c.b == 0 || c.heads == 0 || c.queries == 0 || c.d == 0) return;
  if (const int64_t width = flash_width(c))
    flash(target, c, width);
  else
    stored(target, c, [&](const MatmulCall& call) { matmul(target, call); });
}

}  // namespace sinter::cuda
