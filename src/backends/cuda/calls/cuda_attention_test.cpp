#include <doctest/doctest.h>

#include <thread>

#include "backends/cuda/calls/attention.h"
#include "backends/cuda/calls/device_test_tools.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

// In units of the weighted sum of absolute values, beyond the rounding of the result: the probabilities are rounded to the
// tensors' type before the second product.
double tolerance(DType type) {
  switch (type) {
    case DType::bf16:
      return 6e-3;
    case DType::f16:
      return 1e-3;
    case DType::f8e4m3:
      return 6e-2;
    default:
      return 2e-3;  // TF32
  }
}

int64_t extent(const HeadStrides& s, int64_t b, int64_t tokens, int64_t heads, int64_t d) {
  return (b - 1) * s.b + (tokens - 1) * s.t + (heads - 1) * s.h + d;
}

AttentionShape dense(int64_t b, int64_t heads, int64_t queries, int64_t keys, int64_t d, DType type) {
  AttentionShape s{.b = b, .heads = heads, .queries = queries, .keys = keys, .d = d, .type = type};
  s.q = s.out = {queries * heads * d, heads * d, d};
  s.k = s.v = {keys * heads * d, heads * d, d};
  return s;
}

struct Case {
  TestVendor& vendor;
  AttentionShape s;
  DeviceTensor q, k, v, out, bias;
  float scale;

  Case(TestVendor& t, const AttentionShape& shape) : vendor(t), s(shape), scale(float(1 / std::sqrt(double(shape.d)))) {
    TestDevice& d = t.device;
    q = random_tensor(d, extent(s.q, s.b, s.queries, s.heads, s.d), s.type);
    k = random_tensor(d, extent(s.k, s.b, s.keys, s.heads, s.d), s.type);
    v = random_tensor(d, extent(s.v, s.b, s.keys, s.heads, s.d), s.type);
    out = poisoned_tensor(d, extent(s.out, s.b, s.queries, s.heads, s.d) + 64, s.type);
    if (s.bias)
      bias = random_tensor(
          d, (s.b - 1) * s.bias->strides.b + (s.heads - 1) * s.bias->strides.h + (s.queries - 1) * s.bias->strides.t + s.keys,
          s.bias->type);
  }
  AttentionBuffers buffers() const {
    return {.q = q.at(), .k = k.at(), .v = v.at(), .out = out.at(), .bias = s.bias ? bias.at() : 0, .scale = scale};
  }

  static size_t at(const HeadStrides& t, int64_t b, int64_t token, int64_t h, int64_t i) {
    return size_t(b * t.b + token * t.t + h * t.h + i);
  }

  /// Probabilities of one query, in double.
  std::vector<double> probabilities(int64_t b, int64_t h, int64_t row) const {
    std::vector<double> p(static_cast<size_t>(s.keys));
    double largest = -1e300, sum = 0;
    int64_t seen = s.causal ? std::min(row + 1, s.keys) : s.keys;
    for (int64_t j = 0; j < seen; ++j) {
      double score = 0;
      for (int64_t i = 0; i < s.d; ++i) score += double(q.values[at(s.q, b, row, h, i)]) * k.values[at(s.k, b, j, h, i)];
      score *= scale;
      if (s.bias) score += bias.values[size_t(b * s.bias->strides.b + h * s.bias->strides.h + row * s.bias->strides.t + j)];
      p[size_t(j)] = score;
      largest = std::max(largest, score);
    }
    for (int64_t j = 0; j < seen; ++j) sum += p[size_t(j)] = std::exp(p[size_t(j)] - largest);
    for (double& x : p) x /= sum;
    return p;
  }

  /// Of every query if there are few, else of some; and whether what lies between the rows is still poisoned.
  double worst_error(double out_scale = 1) const {
    std::vector<float> got = download(vendor.device, out);
    DeviceErrorMeter meter{s.type};
    int64_t step = std::max<int64_t>(1, s.b * s.heads * s.queries * s.keys * s.d / 20'000'000);
    for (int64_t r = 0; r < s.b * s.heads * s.queries; r += step) {
      int64_t b = r / (s.heads * s.queries), h = r / s.queries % s.heads, row = r % s.queries;
      std::vector<double> p = probabilities(b, h, row);
      for (int64_t i = 0; i < s.d; ++i) {
        double value = 0, terms = 0;
        for (int64_t j = 0; j < s.keys; ++j) {
          double x = v.values[at(s.v, b, j, h, i)];
          value += p[size_t(j)] * x;
          terms += p[size_t(j)] * std::abs(x);
        }
        meter.add(got[at(s.out, b, row, h, i)], value * out_scale, terms * out_scale);
      }
    }
    return outside_is_untouched(got) ? meter.worst : 1e9;
  }

  bool outside_is_untouched(const std::vector<float>& got) const {
    std::vector<bool> written(got.size());
    for (int64_t b = 0; b < s.b; ++b)
      for (int64_t t = 0; t < s.queries; ++t)
        for (int64_t h = 0; h < s.heads; ++h)
          for (int64_t i = 0; i < s.d; ++i) written[at(s.out, b, t, h, i)] = true;
    for (size_t i = 0; i < got.size(); ++i)
      if (std::isnan(got[i]) == written[i]) return false;
    return true;
  }
};

void check_attention(TestVendor& vendor, const AttentionShape& shape, bool tune = false) {
  CAPTURE(shape.text());
  Case c(vendor, shape);
  TuneOn<AttentionBuffers> on{vendor.stream(), c.buffers(), vendor.workspace};
  auto plan = plan_attention(vendor.vendor, shape, tune ? &on : nullptr);
  REQUIRE_MESSAGE(plan, plan.why_none);
  fill_bytes(c.out.at(), 0xff, c.out.memory.bytes(), vendor.stream());
  vendor.run(*plan->bind(c.buffers(), vendor.workspace));
  CHECK(c.worst_error() < tolerance(shape.type));
}

/// Of tokens to those before them: no kernel of ours has a mask, so this is the library's on every device.
AttentionShape library_shape(int64_t heads, int64_t tokens) {
  AttentionShape s = dense(2, heads, tokens, tokens, 64, DType::bf16);
  s.causal = true;
  return s;
}

TEST_CASE("attention of every head size agrees with sums in double") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (int64_t d : {40, 64, 80, 128, 160}) check_attention(*v, dense(2, 3, 96, 128, d, DType::bf16));
  for (int64_t d : {40, 64, 128}) check_attention(*v, dense(2, 3, 96, 128, d, DType::f16));
  check_attention(*v, dense(1, 1, 64, 64, 512, DType::bf16));
}

TEST_CASE("attention over odd numbers of queries and keys is right") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (auto [queries, keys] : {std::pair<int64_t, int64_t>{77, 77}, {96, 77}, {33, 1}, {1, 50}, {129, 65}, {4096, 77}})
    check_attention(*v, dense(2, 2, queries, keys, 64, DType::bf16));
}

TEST_CASE("attention reads parts of a fused product and writes a part of a wider buffer") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  AttentionShape s{.b = 2, .heads = 4, .queries = 100, .keys = 100, .d = 64};
  s.q = s.k = s.v = {100 * 3 * 256, 3 * 256, 64};
  s.out = {100 * 1280, 1280, 64};
  check_attention(*v, s, true);
  AttentionShape heads_first = dense(2, 4, 100, 60, 64, DType::bf16);
  heads_first.q = heads_first.out = {4 * 100 * 64, 64, 100 * 64};
  heads_first.k = {4 * 60 * 64, 64, 60 * 64};
  check_attention(*v, heads_first);
}

TEST_CASE("attention to a prompt is ours where we say so, stays what was timed, and is right") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (int64_t d : {40, 64, 80, 160}) {
    AttentionShape s = dense(2, 4, 200, 77, d, d == 64 ? DType::f16 : DType::bf16);
    const DeviceInfo& device = v->device.context.device();
    CHECK(why_no_own_attention(s, device) == "");
    CHECK(plan_attention(v->vendor, s)->is_own() == own_attention_should_win(s, device));
    check_attention(*v, s);
    Case c(*v, s);
    TuneOn<AttentionBuffers> on{v->stream(), c.buffers(), v->workspace};
    auto timed = plan_attention(v->vendor, s, &on);
    auto found = plan_attention(v->vendor, s);
    if (!own_attention_should_win(s, device)) {  // else there is nothing to time
      CHECK(timed->choice().microseconds > 0);
      CHECK(found->choice().from_cache);
    }
    CHECK(found->is_own() == timed->is_own());
    if (timed->is_own()) CHECK(found->own() == timed->own());
    v->run(*found->bind(c.buffers(), v->workspace));
    CHECK(c.worst_error() < tolerance(s.type));
  }
}

TEST_CASE("each kernel of ours is right where it makes a call, whichever timing takes") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (int64_t d : {40, 64, 80, 128, 160})
    for (auto [queries, keys] : {std::pair<int64_t, int64_t>{1000, 77}, {300, 154}, {1024, 1024}, {640, 1000}}) {
      const AttentionShape s = dense(2, 3, queries, keys, d, d == 64 ? DType::f16 : DType::bf16);
      Case c(*v, s);
      for (OwnAttention own : {OwnAttention::Resident, OwnAttention::Tiles, OwnAttention::FewTiles}) {
        if (!why_no_own_attention(s, own, v->device.context.device()).empty()) continue;
        CAPTURE(s.text());
        CAPTURE(int(own));
        fill_bytes(c.out.at(), 0xff, c.out.memory.bytes(), v->stream());
        v->run(*AttentionPlan(s, own, *v->vendor.kernels(), {}).bind(c.buffers(), v->workspace));
        CHECK(c.worst_error() < tolerance(s.type));
      }
    }
}

TEST_CASE("few keys are held at once, many taken by tiles, where there is a kernel for either") {
  DeviceInfo hopper{.capability_major = 9, .multiprocessors = 132, .shared_bytes = 227 << 10};
  hopper.cuda_version = 12000;
  DeviceInfo older = hopper;
  older.capability_major = 8;
  const AttentionShape prompt = dense(2, 8, 4096, 77, 40, DType::bf16), picture = dense(2, 8, 4096, 4096, 40, DType::bf16);
  using enum OwnAttention;
  using Kernels = std::vector<OwnAttention>;
  auto among = [&](int64_t keys, int64_t d) { return own_attentions(dense(2, 8, 4096, keys, d, DType::bf16), hopper); };
  CHECK(among(77, 40) == Kernels{FewTiles, Resident});
  CHECK(among(80, 80) == Kernels{FewTiles, Resident});
  CHECK(among(81, 40) == Kernels{Resident});
  CHECK(among(77, 160) == Kernels{Resident});
  CHECK(among(154, 40) == Kernels{Resident, Tiles});
  CHECK(among(231, 40) == Kernels{Tiles, Resident});
  CHECK(among(300, 40) == Kernels{Tiles});
  CHECK(among(4096, 40) == Kernels{Tiles});
  CHECK(among(231, 160) == Kernels{Tiles, Resident});
  CHECK(among(4096, 160) == Kernels{Tiles});
  CHECK(among(4096, 168).empty());
  CHECK(own_attentions(prompt, older) == Kernels{Resident});
  CHECK(why_no_own_attention(picture, Resident, hopper).find("shared memory") != std::string::npos);
  CHECK(own_attention_should_win(picture, hopper));
  CHECK(!own_attention_should_win(picture, older));
  CHECK(own_attention_should_win(dense(2, 8, 231, 231, 40, DType::bf16), hopper));
  CHECK(!own_attention_should_win(dense(2, 8, 231, 231, 40, DType::bf16), older));
  CHECK(own_attention_should_win(dense(1, 24, 4608, 4608, 128, DType::bf16), hopper));
  CHECK(self_attention_module(DType::f16, 48, hopper) == "tile_attention_64_f16");
  CHECK(self_attention_module(DType::f16, 128, hopper) == "tile_attention_128_f16");
  CHECK(self_attention_module(DType::f16, 512, hopper).empty());
  CHECK(self_attention_module(DType::bf16, 40, older).empty());
}

TEST_CASE("where our attention was the fastest, another number of tokens needs no plan of the library, and is right") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  if (self_attention_module(DType::bf16, 80, v->device.context.device()).empty()) {
    MESSAGE("skipped: attention by tiles is for capability 9.0");
    return;
  }
  AttentionShape first = dense(2, 7, 1024, 1024, 80, DType::bf16), further = dense(2, 7, 640, 640, 80, DType::bf16);
  Case a(*v, first), b(*v, further);
  TuneOn<AttentionBuffers> on_first{v->stream(), a.buffers(), v->workspace}, on_further{v->stream(), b.buffers(), v->workspace};
  const bool is_own = plan_attention(v->vendor, first, &on_first)->is_own();
  v->vendor.settle_promising();
  CHECK((prepare_attention(v->vendor, further) == nullptr) == is_own);
  auto planned = plan_attention(v->vendor, further, &on_further);
  if (is_own) CHECK((planned->is_own() && planned->choice().candidates == 0));
  v->run(*planned->bind(b.buffers(), v->workspace));
  CHECK(b.worst_error() < tolerance(DType::bf16));
}

TEST_CASE("our attention refuses what it does not make, and says why") {
  DeviceInfo h100{.capability_major = 9, .multiprocessors = 132, .shared_bytes = 227 << 10}, small = h100, old = h100;
  small.shared_bytes = 99 << 10, old.capability_major = 7;
  const AttentionShape prompt = dense(2, 8, 256, 77, 160, DType::bf16);
  CHECK(why_no_own_attention(prompt, h100) == "");
  CHECK(why_no_own_attention(prompt, small) == "");
  CHECK(why_no_own_attention(prompt, old).find("compute capability 8.0") != std::string::npos);
  CHECK(why_no_own_attention(dense(2, 8, 256, 231, 160, DType::bf16), small).find("shared memory") != std::string::npos);
  CHECK(why_no_own_attention(dense(2, 8, 256, 4096, 64, DType::bf16), h100).find("shared memory") != std::string::npos);
  CHECK(why_no_own_attention(dense(1, 1, 64, 77, 512, DType::bf16), h100).find("wider") != std::string::npos);
  CHECK(why_no_own_attention(dense(1, 2, 64, 77, 64, DType::f32), h100).find("f32") != std::string::npos);
  CHECK(why_no_own_attention(dense(1, 2, 64, 77, 20, DType::bf16), h100).find("16 bytes") != std::string::npos);
  AttentionShape masked = prompt;
  masked.causal = true;
  CHECK(why_no_own_attention(masked, h100).find("mask") != std::string::npos);
  masked.causal = false, masked.bias = AttentionBias{DType::f32, {0, 77, 0}};
  CHECK(why_no_own_attention(masked, h100).find("bias") != std::string::npos);
}

TEST_CASE("causal attention of 77 tokens sees nothing of what follows") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (DType type : {DType::bf16, DType::f16}) {
    AttentionShape s = dense(2, 12, 77, 77, 64, type);
    s.causal = true;
    check_attention(*v, s);
  }
}

TEST_CASE("a bias is added to the scores, whatever it is the same for") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (DType type : {DType::bf16, DType::f32})
    for (HeadStrides strides : {HeadStrides{0, 128, 0}, HeadStrides{0, 128, 96 * 128}, HeadStrides{128, 0, 0},
                                HeadStrides{3 * 96 * 128, 128, 96 * 128}}) {
      AttentionShape s = dense(2, 3, 96, 128, 64, DType::bf16);
      s.bias = AttentionBias{type, strides};
      check_attention(*v, s);
    }
}

TEST_CASE("f32 attention is only planned where TF32 is allowed, and then right to TF32") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  AttentionShape s = dense(1, 2, 96, 128, 64, DType::f32);
  if (auto plan = plan_attention(v->vendor, s)) {
    Case c(*v, s);
    v->run(*plan->bind(c.buffers(), v->workspace));
    CHECK(c.worst_error() < 1e-5);
  } else {
    CHECK(!plan.why_none.empty());
  }
  s.allow_tf32 = true;
  if (auto plan = plan_attention(v->vendor, s))
    check_attention(*v, s);
  else
    MESSAGE("skipped: f32 attention (" << plan.why_none << ")");
}

TEST_CASE("fp8 attention agrees with sums in double and tells the largest values") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  AttentionShape s = dense(2, 2, 128, 256, 128, DType::f8e4m3);
  if (v->device.context.device().capability() < 90) {
    CHECK(!plan_fp8_attention(v->vendor, s));
    MESSAGE("skipped: fp8 attention needs compute capability 9.0");
    return;
  }
  Case c(*v, s);
  DeviceTensor ones = upload(v->device, std::vector<float>(64, 1.f), DType::f32);
  DeviceTensor scales = upload(v->device, {256.f, 1 / 256.f, 2.f}, DType::f32);
  DeviceTensor largest = poisoned_tensor(v->device, 2, DType::f32);
  // The amax outputs grow from what is there.
  fill_bytes(largest.at(), 0, largest.memory.bytes(), v->stream());
  Fp8AttentionBuffers b{.q = c.q.at(), .k = c.k.at(), .v = c.v.at(), .out = c.out.at()};
  b.descale_q = b.descale_k = b.descale_v = ones.at();
  b.scale_s = scales.at(0);
  b.descale_s = scales.at(1);
  b.scale_out = scales.at(2);
  b.largest_s = largest.at(0);
  b.largest_out = largest.at(1);
  b.scale = c.scale;
  auto plan = plan_fp8_attention(v->vendor, s);
  REQUIRE_MESSAGE(plan, plan.why_none);
  v->run(*plan->bind(b, v->workspace));
  CHECK(c.worst_error(2) < tolerance(s.type));
  std::vector<float> seen = download(v->device, largest);
  CHECK(seen[0] > 0);
  CHECK(seen[0] <= 1.01f);
  CHECK(seen[1] > 0);
}

TEST_CASE("an attention plan is stored, found again without timing and gives the same bits, with another scale too") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  const AttentionShape s = library_shape(5, 96);
  Case c(*v, s);
  TuneOn<AttentionBuffers> on{v->stream(), c.buffers(), v->workspace};
  auto timed = plan_attention(v->vendor, s, &on);
  REQUIRE(timed);
  CHECK(!timed->choice().from_cache);
  v->run(*timed->bind(c.buffers(), v->workspace));
  std::vector<float> first = download(v->device, c.out);
  auto found = plan_attention(v->vendor, s);
  REQUIRE(found);
  CHECK(found->choice().from_cache);
  CHECK(found->workspace_bytes() == timed->workspace_bytes());
  v->run(*found->bind(c.buffers(), v->workspace));
  std::vector<float> second = download(v->device, c.out);
  for (int64_t i = 0; i < 2 * 5 * 96 * 64; ++i) REQUIRE(first[size_t(i)] == second[size_t(i)]);
  c.scale = 0.5f;
  v->run(*found->bind(c.buffers(), v->workspace));
  CHECK(c.worst_error() < tolerance(s.type));
}

TEST_CASE("a damaged stored plan costs a new one and nothing else") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  Facts facts = v->vendor.key_facts("cudnn", v->vendor.cudnn()->version);
  for (size_t bytes : {size_t(3), size_t(200)}) {
    const AttentionShape s = library_shape(3, 48 + int64_t(bytes));
    Blob garbage(bytes, std::byte(0x5a));
    v->cache.put(choice_key("attention", s.text(), facts, true), garbage, choice_facts("attention", s.text(), facts, true));
    CHECK(!plan_attention(v->vendor, s)->choice().from_cache);
    check_attention(*v, s, true);
  }
}

TEST_CASE("attention is planned on several threads at once") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  std::vector<Planned<AttentionPlan>> plans(6);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < plans.size(); ++i)
    threads.emplace_back([&, i] { plans[i] = plan_attention(v->vendor, library_shape(2, 64 + 8 * int64_t(i))); });
  for (auto& t : threads) t.join();
  for (const auto& plan : plans) {
    REQUIRE_MESSAGE(plan, plan.why_none);
    Case c(*v, plan->shape());
    v->run(*plan->bind(c.buffers(), v->workspace));
    CHECK(c.worst_error() < tolerance(DType::bf16));
  }
}

TEST_CASE("bound attention runs the same inside a captured graph") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  Case c(*v, dense(1, 2, 64, 64, 64, DType::bf16));
  auto plan = plan_attention(v->vendor, c.s);
  REQUIRE(plan);
  CapturedGraph graph;
  {
    auto call = plan->bind(c.buffers(), v->workspace);
    v->vendor.prepare(v->stream());
    Capture capture(v->stream());
    call->launch(v->stream());
    graph = capture.finish();
  }
  graph.launch(v->stream());
  v->stream().synchronize();
  CHECK(c.worst_error() < tolerance(DType::bf16));
}

}  // namespace
}  // namespace sinter::cuda
