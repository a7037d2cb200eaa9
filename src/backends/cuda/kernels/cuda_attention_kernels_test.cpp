#define SINTER_DEVICE_EMULATION
#include <algorithm>
#include <array>
#include <cmath>

#include "backends/cuda/kernels/attention.device.cpp"
#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/kernels/resident_attention.h"
#include "backends/cuda/kernels/resident_attention_160_bf16.device.cpp"
#include "backends/cuda/kernels/resident_attention_160_f16.device.cpp"
#include "backends/cuda/kernels/resident_attention_48_bf16.device.cpp"
#include "backends/cuda/kernels/resident_attention_48_f16.device.cpp"
#include "backends/cuda/kernels/resident_attention_64_bf16.device.cpp"
#include "backends/cuda/kernels/resident_attention_64_f16.device.cpp"
#include "backends/cuda/kernels/resident_attention_80_bf16.device.cpp"
#include "backends/cuda/kernels/resident_attention_80_f16.device.cpp"
#include "backends/cuda/kernels/test_targets.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

enum class Bias { None, Full, ForKeys, HidesARow };

struct Case {
  int64_t b, heads, queries, keys, d;
  DType type = DType::bf16;
  bool causal = false;
  Bias bias = Bias::None;
  bool fused = false;     // q, k and v side by side in one tensor [b, t, 3, h, d]
  int64_t misplaced = 0;  // elements that k lies behind an aligned address
  DType bias_type = DType::f32;
  float scale = 1;  // times 1 / sqrt(d)
};

struct Tensor4 {
  std::vector<float> values;
  DevicePtr address = 0;
  HeadStrides strides;
  float at(int64_t b, int64_t t, int64_t h, int64_t d) const {
    return values[size_t(b * strides.b + t * strides.t + h * strides.h + d)];
  }
};

Tensor4 make(TestTarget& target, const Case& c, int64_t tokens, uint32_t seed, int64_t misplaced = 0) {
  Tensor4 x;
  x.strides = {tokens * c.heads * c.d, c.heads * c.d, c.d};
  auto values = rounded(random_values(size_t(c.b * tokens * c.heads * c.d + misplaced), seed), c.type);
  x.address = target.upload(encode(values, c.type)) + DevicePtr(misplaced * byte_size(c.type));
  x.values.assign(values.begin() + misplaced, values.end());
  return x;
}

using Launch = std::function<void(KernelTarget&, const AttentionCall&)>;

void check_attention(TestTarget& t, const Case& c, const Launch& launch = attention) {
  CAPTURE(c.queries);
  CAPTURE(c.keys);
  CAPTURE(c.d);
  CAPTURE(name(c.type));
  CAPTURE(int(c.bias));
  Tensor4 q = make(t, c, c.queries, 1), k = make(t, c, c.keys, 2, c.misplaced), v = make(t, c, c.keys, 3);
  if (c.fused) {
    const int64_t row = 3 * c.heads * c.d, part = c.heads * c.d;
    q.values = rounded(random_values(size_t(c.b * c.queries * row), 1), c.type);
    q.address = t.upload(encode(q.values, c.type));
    q.strides = {c.queries * row, row, c.d};
    k = v = q;
    k.values.erase(k.values.begin(), k.values.begin() + part);
    v.values.erase(v.values.begin(), v.values.begin() + 2 * part);
    k.address += DevicePtr(part * byte_size(c.type));
    v.address += DevicePtr(2 * part * byte_size(c.type));
  }
  const HeadStrides out_strides = {c.queries * (c.heads * c.d + 8), c.heads * c.d + 8, c.d};
  std::vector<float> bias;
  AttentionCall call{.b = c.b, .heads = c.heads, .queries = c.queries, .keys = c.keys, .d = c.d};
  call.scale = c.scale / std::sqrt(float(c.d));
  call.causal = c.causal;
  call.type = c.type;
  call.q = q.address;
  call.k = k.address;
  call.v = v.address;
  call.q_strides = q.strides;
  call.k_strides = k.strides;
  call.v_strides = v.strides;
  call.out_strides = out_strides;
  if (c.bias != Bias::None) {
    call.bias_strides = c.bias == Bias::ForKeys ? HeadStrides{c.keys, 0, 0}
                                                : HeadStrides{c.heads * c.queries * c.keys, c.keys, c.queries * c.keys};
    bias = random_values(size_t(c.b * (c.bias == Bias::ForKeys ? 1 : c.heads * c.queries) * c.keys), 4, 2);
    if (c.bias == Bias::HidesARow)
      for (int64_t i = 0; i < c.keys; ++i) bias[size_t(i)] = -INFINITY;  // all of query 0 of the first head
    if (c.bias == Bias::ForKeys) bias[0] = -INFINITY;
    bias = rounded(bias, c.bias_type);
    call.bias = t.upload(encode(bias, c.bias_type));
    call.bias_type = c.bias_type;
  }
  const auto out_count = size_t(c.b * out_strides.b);
  call.out = t.untouched(int64_t(out_count) * byte_size(c.type));
  call.workspace = t.untouched(attention_workspace_bytes(call, attention_keeps_scores(call)));
  launch(t, call);
  const auto seen = decode(t.download<uint8_t>(call.out, out_count * size_t(byte_size(c.type))), c.type);

  double worst = 0;
  size_t outside = 0;
  std::vector<double> weights(size_t(c.keys));
  for (int64_t b = 0; b < c.b; ++b)
    for (int64_t h = 0; h < c.heads; ++h)
      for (int64_t i = 0; i < c.queries; ++i) {
        double largest = -INFINITY, total = 0;
        for (int64_t j = 0; j < c.keys; ++j) {
          double score = 0;
          for (int64_t d = 0; d < c.d; ++d) score += double(q.at(b, i, h, d)) * double(k.at(b, j, h, d));
          score *= double(call.scale);
          if (!bias.empty())
            score += double(bias[size_t(b * call.bias_strides.b + h * call.bias_strides.h + i * call.bias_strides.t + j)]);
          if (c.causal && j > i) score = -INFINITY;
          weights[size_t(j)] = score;
          largest = std::max(largest, score);
        }
        for (double& w : weights) total += w = largest == -INFINITY ? 0 : std::exp(w - largest);
        for (int64_t d = 0; d < c.d; ++d) {
          double sum = 0;
          for (int64_t j = 0; j < c.keys; ++j) sum += weights[size_t(j)] * double(v.at(b, j, h, d));
          const double expected = total == 0 ? 0 : sum / total;
          const double error =
              std::fabs(double(seen[size_t(b * out_strides.b + i * out_strides.t + h * out_strides.h + d)]) - expected);
          worst = std::isnan(error) ? INFINITY : std::max(worst, error);
        }
        for (int64_t d = 0; d < 8; ++d)
          outside += !std::isnan(seen[size_t(b * out_strides.b + i * out_strides.t + c.heads * c.d + d)]);
      }
  CHECK(worst < (c.type == DType::f32 ? 4e-6 : c.type == DType::f16 ? 2e-3 : 1.2e-2));
  CHECK(outside == 0);
}

TEST_CASE("attention agrees with f64 for head sizes, lengths, layouts, masks and types of every kind") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::bf16, DType::f16}) {
      check_attention(t, {2, 2, 70, 77, 40, type});
      check_attention(t, {1, 1, 64, 128, 64, type});
      check_attention(t, {1, 2, 33, 130, 64, type, true});
      check_attention(t, {1, 1, 100, 100, 128, type, false, Bias::Full});
      check_attention(t, {1, 1, 20, 50, 160, type, false, Bias::ForKeys});
      check_attention(t, {1, 1, 65, 40, 256, type, true});
      check_attention(t, {2, 3, 17, 17, 24, type, false, Bias::None, true});
      check_attention(t, {1, 2, 9, 70, 16, type, false, Bias::HidesARow});
      check_attention(t, {1, 1, 5, 1, 8, type});
      check_attention(t, {1, 2, 20, 30, 24, type, false, Bias::Full, false, 0, type});
    }
  });
}

void check_resident(TestTarget& t, const Case& c) { check_attention(t, c, resident_attention); }

TEST_CASE("attention that holds all keys agrees with f64, whatever is left over of queries, keys and columns") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::bf16, DType::f16}) {
      check_resident(t, {2, 2, 400, 77, 64, type});  // several tiles for each warp
      check_resident(t, {1, 2, 300, 160, 24, type});
      check_resident(t, {1, 2, 64, 77, 40, type});
      check_resident(t, {1, 1, 70, 80, 48, type});
      check_resident(t, {1, 2, 33, 154, 80, type});
      check_resident(t, {2, 1, 20, 154, 160, type});
      check_resident(t, {1, 1, 40, 81, 72, type});
      check_resident(t, {1, 1, 17, 10, 88, type});
      check_resident(t, {2, 3, 17, 17, 24, type, false, Bias::None, true});
      check_resident(t, {1, 1, 1, 1, 8, type});
      for (float scale : {-1.f, 0.f}) check_resident(t, {1, 1, 20, 90, 16, type, false, Bias::None, false, 0, DType::f32, scale});
    }
  });
}

TEST_CASE("attention whose scores are stored agrees with f64: f32, wide heads, odd sizes and places") {
  on_each_target([](TestTarget& t) {
    check_attention(t, {1, 1, 40, 50, 512, DType::bf16});
    check_attention(t, {2, 2, 30, 77, 64, DType::f32, false, Bias::Full});
    check_attention(t, {1, 2, 20, 20, 40, DType::f32, true});
    check_attention(t, {1, 2, 12, 9, 20, DType::f16, true, Bias::ForKeys});
    check_attention(t, {1, 2, 9, 30, 16, DType::bf16, false, Bias::HidesARow, false, 1});
    check_attention(t, {1, 1, 9, 30, 36, DType::f16, false, Bias::Full, false, 0, DType::bf16});
    check_attention(t, {1, 2, 16, 16, 8, DType::f32, false, Bias::None, true});
  });
}

TEST_CASE("blocks of attention that holds all keys leave no multiprocessor with much more than its share") {
  constexpr int kMultiprocessors = 132;
  for (auto [heads, queries, d, most] : {std::array<int64_t, 4>{20, 4096, 64, 10},
                                         {40, 1024, 64, 5},
                                         {16, 4096, 40, 8},
                                         {16, 1024, 80, 2},
                                         {16, 256, 160, 1},
                                         {16, 64, 160, 1}}) {
    CAPTURE(heads);
    CAPTURE(queries);
    const AttentionCall call{.heads = heads, .queries = queries, .keys = 77, .d = d};
    const int64_t blocks = resident_blocks(call, kMultiprocessors), tiles = divide_up(queries, 64);
    CHECK(blocks <= tiles);
    CHECK(divide_up(blocks * heads, kMultiprocessors) * divide_up(tiles, blocks) == most);
  }
}

TEST_CASE("attention to prompts as models have it, on a device") {
  TestDevice* device = test_device();
  if (!device) return;
  DeviceTarget t(*device);
  for (DType type : {DType::bf16, DType::f16}) {
    check_resident(t, {2, 5, 1000, 77, 64, type});
    check_resident(t, {2, 8, 300, 77, 40, type});
    check_resident(t, {2, 4, 256, 231, 80, type});
    check_resident(t, {2, 4, 64, 231, 160, type});
  }
}

TEST_CASE("attention as models have it, on a device") {
  TestDevice* device = test_device();
  if (!device) return;
  DeviceTarget t(*device);
  for (DType type : {DType::bf16, DType::f16, DType::f32}) {
    check_attention(t, {1, 2, 700, 700, 128, type});
    check_attention(t, {2, 5, 256, 77, 64, type});
    check_attention(t, {1, 8, 333, 333, 40, type, true});
    check_attention(t, {1, 1, 1024, 1024, 512, type});
    check_attention(t, {1, 3, 200, 200, 64, type, false, Bias::Full, true});
  }
}

}  // namespace
}  // namespace sinter::cuda
