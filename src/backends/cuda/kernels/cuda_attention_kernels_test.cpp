#define SINTER_DEVICE_EMULATION
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <set>

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
#include "backends/cuda/kernels/test_tensor_map.h"
#include "backends/cuda/kernels/tile_attention.h"
#include "backends/cuda/kernels/tile_attention_128_bf16.device.cpp"
#include "backends/cuda/kernels/tile_attention_128_f16.device.cpp"
#include "backends/cuda/kernels/tile_attention_160_bf16.device.cpp"
#include "backends/cuda/kernels/tile_attention_160_f16.device.cpp"
#include "backends/cuda/kernels/tile_attention_40_bf16.device.cpp"
#include "backends/cuda/kernels/tile_attention_40_f16.device.cpp"
#include "backends/cuda/kernels/tile_attention_64_bf16.device.cpp"
#include "backends/cuda/kernels/tile_attention_64_f16.device.cpp"
#include "backends/cuda/kernels/tile_attention_80_bf16.device.cpp"
#include "backends/cuda/kernels/tile_attention_80_f16.device.cpp"
#include "backends/cuda/kernels/tile_attention_few_40_bf16.device.cpp"
#include "backends/cuda/kernels/tile_attention_few_40_f16.device.cpp"
#include "backends/cuda/kernels/tile_attention_few_64_bf16.device.cpp"
#include "backends/cuda/kernels/tile_attention_few_64_f16.device.cpp"
#include "backends/cuda/kernels/tile_attention_few_80_bf16.device.cpp"
#include "backends/cuda/kernels/tile_attention_few_80_f16.device.cpp"
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
  // What a token's value in a column becomes, where q and k lie by themselves.
  using Change = std::function<float(int64_t token, int64_t column, float value)>;
  Change query = {}, key = {};
};

struct Tensor4 {
  std::vector<float> values;
  DevicePtr address = 0;
  HeadStrides strides;
  float at(int64_t b, int64_t t, int64_t h, int64_t d) const {
    return values[size_t(b * strides.b + t * strides.t + h * strides.h + d)];
  }
};

Tensor4 make(TestTarget& target, const Case& c, int64_t tokens, uint32_t seed, int64_t misplaced = 0,
             const Case::Change& change = {}) {
  Tensor4 x;
  x.strides = {tokens * c.heads * c.d, c.heads * c.d, c.d};
  auto values = random_values(size_t(c.b * tokens * c.heads * c.d + misplaced), seed);
  if (change)
    for (size_t i = 0; i < values.size(); ++i) values[i] = change(int64_t(i) / x.strides.t % tokens, int64_t(i) % c.d, values[i]);
  values = rounded(values, c.type);
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
  Tensor4 q = make(t, c, c.queries, 1, 0, c.query), k = make(t, c, c.keys, 2, c.misplaced, c.key), v = make(t, c, c.keys, 3);
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
          const double result = double(seen[size_t(b * out_strides.b + i * out_strides.t + h * out_strides.h + d)]);
          if (std::isnan(expected) && std::isnan(result)) continue;
          const double error = std::fabs(result - expected);
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

/// The kernel for any number of keys makes what one is not for.
TileKind kind_for(const AttentionCall& c, TileKind kind) {
  return why_no_tile_attention(c, kind, hopper()).empty() ? kind : TileKind::Any;
}

void launch_tiles(KernelTarget& t, const AttentionCall& c, TileKind kind) {
  if (!static_cast<TestTarget&>(t).emulated()) {
    const TileAttention made = tile_attention(c, kind_for(c, kind), t.multiprocessors());
    made.launch(t);
    CHECK(static_cast<DeviceTarget&>(t).function(made.kernel).local_bytes() == 0);
    return;
  }
  TileAttention made = tile_attention_without_maps(c, kind_for(c, kind), t.multiprocessors());
  describe_for_emulation(made.maps.q, made.q);
  describe_for_emulation(made.maps.k, made.k);
  describe_for_emulation(made.maps.v, made.v);
  made.launch(t);
}

void check_tiles(TestTarget& t, const Case& c, TileKind kind = TileKind::Any) {
  CAPTURE(int(kind));
  check_attention(t, c, [kind](KernelTarget& target, const AttentionCall& call) { launch_tiles(target, call, kind); });
}

AttentionCall dense(int64_t heads, int64_t tokens, int64_t d) {
  AttentionCall c{.heads = heads, .queries = tokens, .keys = tokens, .d = d};
  c.q_strides = c.k_strides = c.v_strides = c.out_strides = {tokens * heads * d, heads * d, d};
  return c;
}

TestDevice* device_for_tiles() {
  return test_device_that(
      [](const DeviceInfo& device) { return why_no_tile_attention(dense(1, 64, 64), TileKind::Any, device); });
}

TEST_CASE("emulated attention by whole tiles agrees with f64: odd numbers of queries and keys, fused operands, any scale") {
  EmulatedTarget t;
  for (DType type : {DType::bf16, DType::f16}) {
    check_tiles(t, {1, 1, 1, 1, 8, type});
    check_tiles(t, {2, 2, 77, 77, 40, type, false, Bias::None, true});
    check_tiles(t, {1, 2, 300, 389, 40, type});
    check_tiles(t, {2, 3, 130, 257, 64, type, false, Bias::None, false, 0, DType::f32, 20});
    check_tiles(t, {1, 1, 450, 129, 56, type});
    check_tiles(t, {1, 1, 129, 1100, type == DType::bf16 ? 40 : 64, type});  // more keys than slots
    // Several groups for each block; the last heads have more of them than the first where there are less than four warpgroups.
    for (int64_t d : {40, 64, 80, 128, 160}) check_tiles(t, {1, 5, 250, 10, d, type});
    check_tiles(t, {1, 2, 200, 200, 128, type, false, Bias::None, true});
    check_tiles(t, {2, 1, 70, 252, 160, type});
    check_tiles(t, {1, 1, 20, 1000, 136, type});
    check_tiles(t, {1, 1, 20, 200, 88, type});
    check_tiles(t, {1, 1, 70, 128, 24, type});
    check_tiles(t, {2, 1, 300, 200, 80, type, false, Bias::None, true});
    check_tiles(t, {1, 3, 129, 255, 72, type, false, Bias::None, false, 0, DType::f32, 20});
    for (float scale : {-1.f, 0.f}) check_tiles(t, {1, 1, 20, 150, 16, type, false, Bias::None, false, 0, DType::f32, scale});
  }
}

/// The keys that are taken first are the last; `begin` is the first of them. Where all are taken at once, half of them.
void check_far_apart(TestTarget& t, Case c, TileKind kind = TileKind::Any) {
  const int64_t tile = tile_attention_form(dense(c.heads, c.queries, c.d), kind).keys, all_before = (c.keys - 1) / tile * tile;
  const int64_t begin = kind == TileKind::Few ? c.keys / 2 : all_before;
  auto keys_times = [&](float last, float others) {
    CAPTURE(last);
    CAPTURE(others);
    c.query = {};
    c.key = [=](int64_t token, int64_t, float value) { return value * (token < begin ? others : last); };
    check_tiles(t, c, kind);
  };
  keys_times(1, 200);  // far beyond what can be counted from the last ones
  keys_times(1, 12);
  keys_times(200, 1);
  keys_times(1e-3f, 1000);
  // A score of each query and key of its own, and another type's infinity.
  auto added = [&](const std::function<float(int64_t)>& score) {
    CAPTURE(score(0));
    CAPTURE(score(3));
    CAPTURE(score(begin));
    c.query = [](int64_t, int64_t column, float value) { return column == 0 ? 1.f : value; };
    c.key = [=](int64_t token, int64_t column, float value) { return column == 0 ? score(token) : value; };
    check_tiles(t, c, kind);
  };
  added([&](int64_t token) { return token < begin ? 0.f : -INFINITY; });
  added([&](int64_t token) { return token < begin ? -4000.f : -INFINITY; });
  added([&](int64_t token) { return token < begin ? -INFINITY : 1.f; });
  added([](int64_t) { return -INFINITY; });
  added([](int64_t token) { return token == 3 ? INFINITY : 0.f; });
  added([](int64_t token) { return token == 3 ? NAN : 0.f; });
  added([&](int64_t token) { return token == begin ? NAN : 0.f; });
  added([](int64_t token) { return float(token); });
  added([](int64_t token) { return -float(token); });
}

/// Scores that grow from tile to tile by all that a weight can grow, and then fall a little: what is largest must not be lost.
void check_nearly_overflown(TestTarget& t, DType type, int64_t d) {
  const int64_t tile = tile_attention_form(dense(1, 1, d), TileKind::Any).keys;
  constexpr double kLog2E = 1.4426950408889634;
  for (double exponent = 124; exponent <= 136; exponent += 0.5) {
    Case c{1, 1, 64, 3 * tile, d, type};
    c.query = [](int64_t, int64_t column, float) { return column == 0 ? 1.f : 0.f; };
    c.key = [=](int64_t token, int64_t column, float) {
      const double place = token >= 2 * tile ? 0 : token >= tile ? exponent : exponent - 2;
      return column == 0 ? float(place / kLog2E * std::sqrt(double(d))) : 0.f;
    };
    CAPTURE(exponent);
    check_tiles(t, c);
  }
}

/// Of a block's groups some are made again, others not.
void check_some_again(TestTarget& t, DType type) {
  Case c{1, 2, 300, 130, 40, type};
  c.query = [](int64_t token, int64_t, float value) { return token < 64 ? value * 200 : value; };
  check_tiles(t, c);
  c.heads = 100, c.queries = 3, c.d = 8;  // more groups than a block has marks
  c.query = [](int64_t, int64_t, float value) { return value * 200; };
  check_tiles(t, c);
}

void check_few(TestTarget& t, DType type) {
  auto check = [&](Case c) {
    c.type = type;
    REQUIRE(c.keys <= device::kFewKeys);
    check_tiles(t, c, TileKind::Few);
  };
  check({1, 1, 1, 1, 8});
  check({2, 2, 77, 77, 40, type, false, Bias::None, true});
  check({1, 1, 70, 80, 24});
  check({2, 3, 400, 77, 64});  // runs of several tiles for a warpgroup, which end in the midst of heads
  check({1, 11, 20, 77, 40});  // more heads than warpgroups, of one tile each
  check({1, 40, 65, 5, 56});
  check({2, 3, 300, 79, 80, type, false, Bias::None, true});
  check({1, 3, 129, 33, 72, type, false, Bias::None, false, 0, DType::f32, 20});
  for (float scale : {-1.f, 0.f}) check({1, 1, 20, 65, 16, type, false, Bias::None, false, 0, DType::f32, scale});
  for (int64_t d : {40, 64, 80}) check_far_apart(t, {1, 2, 70, 77, d, type}, TileKind::Few);
}

TEST_CASE("emulated attention by whole tiles to few keys agrees with f64, whatever a block has of heads and queries") {
  EmulatedTarget t;
  for (DType type : {DType::bf16, DType::f16}) check_few(t, type);
}

TEST_CASE("attention by whole tiles to few keys agrees with f64 on a device") {
  TestDevice* device = device_for_tiles();
  if (!device) return;
  DeviceTarget t(*device);
  for (DType type : {DType::bf16, DType::f16}) {
    check_few(t, type);
    for (int64_t d : {40, 64, 80}) {
      check_tiles(t, {2, 8, 1000, 77, d, type}, TileKind::Few);
      check_tiles(t, {2, 300, 70, 20, d, type}, TileKind::Few);  // several heads for each block
    }
  }
}

TEST_CASE("emulated attention by whole tiles agrees with f64 where scores are far apart, infinite or no numbers") {
  EmulatedTarget t;
  check_some_again(t, DType::bf16);
  for (DType type : {DType::bf16, DType::f16}) {
    check_nearly_overflown(t, type, 40);
    for (int64_t d : {40, 64, 80, 128, 160}) check_far_apart(t, {1, 1, 70, 260, d, type});
    check_far_apart(t, {1, 2, 40, 150, 40, type, false, Bias::None, false, 0, DType::f32, -1});
  }
}

TEST_CASE("attention by whole tiles agrees with f64 on a device where scores are far apart, infinite or no numbers") {
  TestDevice* device = device_for_tiles();
  if (!device) return;
  DeviceTarget t(*device);
  for (DType type : {DType::bf16, DType::f16}) {
    check_some_again(t, type);
    for (int64_t d : {40, 64, 80, 128, 160}) {
      check_nearly_overflown(t, type, d);
      check_far_apart(t, {1, 2, 330, 260, d, type});
      check_far_apart(t, {1, 1, 70, 300, d, type, false, Bias::None, false, 0, DType::f32, -1});
    }
  }
}

TEST_CASE("attention by whole tiles agrees with f64 on a device") {
  TestDevice* device = device_for_tiles();
  if (!device) return;
  DeviceTarget t(*device);
  for (DType type : {DType::bf16, DType::f16}) {
    for (int64_t d : {8, 24, 40, 48, 64, 72, 80, 88, 128, 136, 160}) check_tiles(t, {2, 2, 130, 389, d, type});
    for (int64_t d : {40, 64, 80, 128, 160}) {
      check_tiles(t, {1, 1, 1, 1, d, type});
      check_tiles(t, {2, 2, 77, 77, d, type, false, Bias::None, true});
      check_tiles(t, {1, 2, 100, 1000, d, type, false, Bias::None, false, 0, DType::f32, 20});
      check_tiles(t, {2, 20, 450, 129, d, type, false, Bias::None, true});  // several groups for each block
      for (float scale : {-1.f, 0.f}) check_tiles(t, {1, 1, 20, 150, d, type, false, Bias::None, false, 0, DType::f32, scale});
    }
  }
}

TEST_CASE(
    "attention by whole tiles makes each tile of queries once, and leaves no multiprocessor with much more than its share") {
  struct Expected {
    int64_t heads, queries;
    int makers;
    double most;  // tiles of the busiest of 132
  };
  for (const Expected& e : {Expected{16, 4096, 3, 8},
                            {16, 4096, 4, 8},
                            {20, 4096, 3, 10},
                            {40, 1024, 3, 5},
                            {16, 1024, 2, 2},
                            {1, 1, 3, 1},
                            {3, 1000, 3, 1},
                            {24, 4608, 2, 14},
                            {24, 4608, 3, 14}}) {
    CAPTURE(e.heads);
    CAPTURE(e.queries);
    const auto order = tile_attention_order(e.heads, e.queries, e.makers, 132);
    std::set<std::pair<int, int>> seen;
    std::vector<int> tiles(132, 0);
    for (int i = 0; i < order.groups(); ++i) {
      const auto group = order.group(i);
      CHECK(group.width <= e.makers);
      tiles[size_t(i % 132)] += group.width;
      for (int m = 0; m < group.width; ++m) CHECK(seen.insert({group.head, group.first + m}).second);
    }
    CHECK(int64_t(seen.size()) == e.heads * divide_up(e.queries, 64));
    CHECK(seen.rbegin()->second * 64 < e.queries);
    CHECK(*std::max_element(tiles.begin(), tiles.end()) <= e.most);
  }
}

TEST_CASE("attention by whole tiles has a kernel for each call that it takes, and says why it takes no other") {
  const AttentionCall good = dense(8, 100, 40);
  for (int64_t d : {8, 40, 48, 64, 80, 88, 128, 160})
    for (DType type : {DType::bf16, DType::f16})
      for (TileKind kind : {TileKind::Any, TileKind::Few}) {
        if (kind == TileKind::Few && d > 80) continue;
        AttentionCall c = dense(8, 100, d);
        c.keys = 80;
        c.type = type;
        CHECK(why_no_tile_attention(c, kind, hopper()) == "");
        const std::string_view ptx = Kernels::all_ptx().at(tile_attention_module(c, kind) + " (sm_90a)");
        CHECK(ptx.find(".entry " + tile_attention_kernel(c, kind) + "(") != ptx.npos);
        const device::TileAttentionForm& form = tile_attention_form(c, kind);
        CHECK(ptx.find(fmt::format(".reqntid {}, 1, 1", form.threads())) != ptx.npos);
        CHECK(form.slots() >= 4);
        CHECK(form.registers() <= form.started_registers());
        CHECK(form.shared_bytes() <= 227 * 1024);
      }
  CHECK(why_no_tile_attention(dense(8, 81, 40), TileKind::Few, hopper()).find("81 keys") != std::string::npos);
  const auto refused = refusals<AttentionCall>(
      good, [](const AttentionCall& c, const DeviceInfo& d) { return why_no_tile_attention(c, TileKind::Any, d); });
  refused([](auto&, auto& d) { d.capability_major = 8; }, "capability 9.0");
  refused([](auto&, auto& d) { d.cuda_version = 11080; }, "CUDA 12.0");
  refused([](auto& c, auto&) { c.type = DType::f32; }, "f32");
  refused([](auto& c, auto&) { c.d = 168; }, "wider than 160");
  refused([](auto& c, auto&) { c.causal = true; }, "mask");
  refused([](auto& c, auto&) { c.k_strides.h = 44; }, "16 bytes");
  refused([](auto& c, auto&) { c.v_strides.h = 0; }, "strides of 0");
  refused([](auto& c, auto&) { c.keys = 0; }, "nothing");
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
