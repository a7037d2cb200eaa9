#include <doctest/doctest.h>

#include "backends/cuda/calls/device_test_tools.h"
#include "backends/cuda/calls/linear.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

// Errors are in units of the sum of the absolute terms, beyond the rounding of the result.
constexpr double kToleranceF32 = 2e-6;   // f32 inputs and sums
constexpr double kTolerance16 = 1e-5;    // 16-bit inputs, f32 sums; matrix units cut off what they add
constexpr double kToleranceGelu = 2e-5;  // the library's tanh is not exact
constexpr double kToleranceTF32 = 1e-3;  // 10 fraction bits
constexpr double kToleranceF16 = 1e-2;   // sums in f16
constexpr double kToleranceFP8 = 5e-3;   // the units keep about 13 bits of a sum

/// Where no kernel does the epilogue in one go, as with rows that are not 16 bytes apart or with a residual in place, the library
/// rounds the sum to the result's type before it adds: bf16 has 8 digits. One of the kernels that timing may choose was 1.14
/// halves of the last of them off (129 x 65 x 33, cuBLASLt 13.1), which a sum that is cut off and not rounded may be.
constexpr double kToleranceRoundedTwice = 0x1p-8;

double tolerance(const LinearShape& s) {
  if (s.is_fp8()) return kToleranceFP8;
  if (s.compute == LinearCompute::TF32) return kToleranceTF32;
  if (s.compute == LinearCompute::F16Accumulate) return kToleranceF16;
  if (s.epilogue == LinearEpilogue::BiasGelu) return kToleranceGelu;
  if (s.out == DType::bf16 && s.epilogue == LinearEpilogue::Bias && (s.n % 8 != 0 || s.k % 8 != 0)) return kToleranceRoundedTwice;
  return s.a == DType::f32 ? kToleranceF32 : kTolerance16;
}

double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }
double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }

int64_t extent(int64_t batch, int64_t batch_stride, int64_t rows, int64_t stride, int64_t row) {
  return (batch - 1) * batch_stride + (rows - 1) * stride + row;
}

/// One product with random data, and everything around its output still poisoned.
struct Case {
  TestVendor& vendor;
  LinearShape s;
  DeviceTensor a, weights, out, bias, residual, a_scale, weights_scale;

  Case(TestVendor& v, const LinearShape& shape) : vendor(v), s(shape) {
    TestDevice& d = vendor.device;
    LinearShape f = filled();
    int64_t weight_rows = f.weights_are_kn ? f.k : f.gated ? 2 * f.n : f.n, weight_row = f.weights_are_kn ? f.n : f.k;
    a = random_tensor(d, extent(f.batch, f.a_batch, f.m, f.a_stride, f.k), f.a);
    weights = random_tensor(d, extent(f.batch, f.weights_batch, weight_rows, f.weights_stride, weight_row), f.weights);
    out = poisoned_tensor(d, extent(f.batch, f.out_batch, f.m, f.out_stride, f.n) + 64, f.out);
    bias = random_tensor(d, f.gated ? 2 * f.n : f.n, f.bias());
    if (f.residual) residual = random_tensor(d, extent(f.batch, f.residual_batch, f.m, f.residual_stride, f.n), f.out);
    bool vectors = f.compute == LinearCompute::FP8Vector;
    a_scale = scales(vectors ? f.m : 1);
    weights_scale = scales(vectors ? f.n : 1);
  }

  /// Strides without the folding of batches.
  LinearShape filled() const {
    LinearShape f = s;
    if (!f.a_stride) f.a_stride = f.k;
    if (!f.weights_stride) f.weights_stride = f.weights_are_kn ? f.n : f.k;
    if (!f.out_stride) f.out_stride = f.n;
    if (!f.residual_stride) f.residual_stride = f.n;
    return f;
  }

  DeviceTensor scales(int64_t count) {
    std::uniform_real_distribution<float> uniform(0.25f, 2.f);
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = uniform(device_test_bits());
    return upload(vendor.device, values, DType::f32);
  }

  LinearBuffers buffers() const {
    return {.a = a.at(),
            .weights = weights.at(),
            .out = out.at(),
            .bias = bias.at(),
            .residual = s.residual ? residual.at() : 0,
            .a_scale = a_scale.at(),
            .weights_scale = weights_scale.at()};
  }

  void expected(int64_t b, int64_t row, int64_t column, double& value, double& scale) const {
    LinearShape f = filled();
    value = scale = 0;
    for (int64_t i = 0; i < f.k; ++i) {
      double x = a.values[size_t(b * f.a_batch + row * f.a_stride + i)];
      int64_t at = f.weights_are_kn ? i * f.weights_stride + column : column * f.weights_stride + i;
      double w = weights.values[size_t(b * f.weights_batch + at)];
      value += x * w;
      scale += std::abs(x * w);
    }
    if (s.is_fp8()) {
      bool vectors = s.compute == LinearCompute::FP8Vector;
      double factor = double(a_scale.values[vectors ? size_t(row) : 0]) * weights_scale.values[vectors ? size_t(column) : 0];
      value *= factor;
      scale *= factor;
    }
    auto add = [&](double more) {
      value += more;
      scale += std::abs(more);
    };
    if (s.gated && column < f.n) {
      double gate, gate_scale;
      expected(b, row, column + f.n, gate, gate_scale);
      if (s.epilogue != LinearEpilogue::None) add(bias.values[size_t(column)]);
      value *= gelu_erf(gate);
      scale *= gate_scale;
      return;
    }
    if (s.epilogue != LinearEpilogue::None) add(bias.values[size_t(column)]);
    if (s.epilogue == LinearEpilogue::BiasGelu) value = gelu_tanh(value);
    if (s.residual) add(residual.values[size_t(b * f.residual_batch + row * f.residual_stride + column)]);
  }

  double worst_error() const {
    LinearShape f = filled();
    std::vector<float> got = download(vendor.device, out);
    DeviceErrorMeter meter{f.out};
    std::vector<bool> written(got.size());
    for (int64_t b = 0; b < f.batch; ++b)
      for (int64_t r = 0; r < f.m; ++r)
        for (int64_t c = 0; c < f.n; ++c) {
          double value, scale;
          expected(b, r, c, value, scale);
          size_t at = size_t(b * f.out_batch + r * f.out_stride + c);
          meter.add(got[at], value, scale);
          written[at] = true;
        }
    for (size_t i = 0; i < got.size(); ++i)
      if (!written[i] && !std::isnan(got[i])) return 1e9;  // wrote beside its rows
    return meter.worst;
  }
};

void check_linear(TestVendor& vendor, const LinearShape& shape, bool tune = false) {
  CAPTURE(shape.text());
  Case c(vendor, shape);
  TuneOn<LinearBuffers> on{vendor.stream(), c.buffers(), vendor.workspace};
  Planned<LinearPlan> plan = plan_linear(vendor.vendor, shape, tune ? &on : nullptr);
  REQUIRE_MESSAGE(plan, plan.why_none);
  if (tune && !plan->choice().from_cache) CHECK(plan->choice().microseconds > 0);
  fill_bytes(c.out.at(), 0xff, c.out.memory.bytes(), vendor.stream());
  vendor.run(*plan->bind(c.buffers(), vendor.workspace));
  CHECK(c.worst_error() < tolerance(shape));
}

TEST_CASE("linear layers in every type and epilogue agree with sums in double") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  struct Types {
    DType in, out;
    LinearCompute compute;
  };
  for (Types t :
       {Types{DType::f32, DType::f32, LinearCompute::F32}, Types{DType::f32, DType::f32, LinearCompute::TF32},
        Types{DType::bf16, DType::bf16, LinearCompute::F32}, Types{DType::f16, DType::f16, LinearCompute::F32},
        Types{DType::f16, DType::f16, LinearCompute::F16Accumulate}, Types{DType::bf16, DType::f32, LinearCompute::F32}})
    for (auto epilogue : {LinearEpilogue::None, LinearEpilogue::Bias, LinearEpilogue::BiasGelu})
      for (bool residual : {false, true}) {
        if (residual && epilogue == LinearEpilogue::BiasGelu) continue;
        // The library has no bias epilogue from bf16 to f32 that we need.
        if (t.in != t.out && epilogue != LinearEpilogue::None) continue;
        check_linear(*v, {.m = 80,
                          .n = 96,
                          .k = 320,
                          .a = t.in,
                          .weights = t.in,
                          .out = t.out,
                          .epilogue = epilogue,
                          .residual = residual,
                          .compute = t.compute});
      }
}

TEST_CASE("gated linear layers are tile products, timed or not, and nothing else makes them") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  LinearShape shape{.m = 300, .n = 160, .k = 128, .epilogue = LinearEpilogue::Bias, .gated = true};
  if (const std::string why = why_no_tile_product(shape, v->device.context.device()); !why.empty()) {
    CHECK(!plan_linear(v->vendor, shape));
    MESSAGE("skipped: " << why);
    return;
  }
  for (DType type : {DType::bf16, DType::f16})
    for (bool tune : {false, true}) {
      shape.a = shape.weights = shape.out = type;
      check_linear(*v, shape, tune);
      if (tune) CHECK(plan_linear(v->vendor, shape)->is_own());
    }
  shape.alignment = 8;
  CHECK(plan_linear(v->vendor, shape).why_none.find("16 bytes") != std::string::npos);
}

TEST_CASE("linear layers with odd sizes and a single row are right, chosen by time or not") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  for (auto [m, n, k] :
       {std::array<int64_t, 3>{1, 1280, 320}, {2, 640, 1280}, {77, 768, 768}, {77, 3, 17}, {129, 65, 33}, {5, 4, 320}})
    for (DType type : {DType::f32, DType::bf16, DType::f16})
      for (bool tune : {false, true})
        check_linear(*v, {.m = m, .n = n, .k = k, .a = type, .weights = type, .out = type, .epilogue = LinearEpilogue::Bias},
                     tune);
}

TEST_CASE("a linear layer reads a slice of wider rows and writes into one, and nothing beside it") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  for (DType type : {DType::f32, DType::bf16})
    check_linear(*v, {.m = 50,
                      .n = 64,
                      .k = 128,
                      .a = type,
                      .weights = type,
                      .out = type,
                      .a_stride = 384,
                      .weights_stride = 160,
                      .out_stride = 200,
                      .residual_stride = 72,
                      .epilogue = LinearEpilogue::Bias,
                      .residual = true});
}

TEST_CASE("a residual may be the output itself") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  LinearShape s{.m = 64, .n = 128, .k = 64, .epilogue = LinearEpilogue::Bias, .residual = true};
  Case c(*v, s);
  copy_on_device(c.out.at(), c.residual.at(), c.residual.memory.bytes(), v->stream());
  LinearBuffers buffers = c.buffers();
  buffers.residual = buffers.out;
  auto plan = plan_linear(v->vendor, s);
  REQUIRE(plan);
  v->run(*plan->bind(buffers, v->workspace));
  CHECK(c.worst_error() < kToleranceRoundedTwice);
}

TEST_CASE("products of two computed tensors are right in batches, shared or not, with either order of b") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  for (DType type : {DType::f32, DType::bf16, DType::f16})
    for (bool kn : {false, true})
      for (bool shared : {false, true}) {
        LinearShape s{.m = 40, .n = 56, .k = 72, .a = type, .weights = type, .out = type, .weights_are_kn = kn, .batch = 6};
        s.a_batch = 40 * 72;
        s.weights_batch = shared ? 0 : 56 * 72;
        s.out_batch = 40 * 56;
        check_linear(*v, s);
        s.out_batch += 8;  // no longer one matrix of more rows
        check_linear(*v, s);
      }
}

TEST_CASE("fp8 products with one scale, and with a scale for each row and feature, are right") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  if (!v->device.context.device().has_fp8()) {
    MESSAGE("skipped: " << v->device.context.device().name << " has no fp8 units");
    return;
  }
  for (auto compute : {LinearCompute::FP8Tensor, LinearCompute::FP8Vector})
    for (bool fast : {false, true})
      for (auto epilogue : {LinearEpilogue::None, LinearEpilogue::Bias, LinearEpilogue::BiasGelu}) {
        LinearShape s{.m = 72,
                      .n = 128,
                      .k = 256,
                      .a = DType::f8e4m3,
                      .weights = DType::f8e4m3,
                      .epilogue = epilogue,
                      .compute = compute,
                      .fast_accumulate = fast};
        check_linear(*v, s);
        s.residual = epilogue != LinearEpilogue::BiasGelu;
        check_linear(*v, s, true);
      }
}

TEST_CASE("a timed choice is stored, found again and gives the same bits") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  LinearShape s{.m = 512, .n = 640, .k = 1280, .epilogue = LinearEpilogue::Bias};
  Case c(*v, s);
  TuneOn<LinearBuffers> on{v->stream(), c.buffers(), v->workspace};
  auto timed = plan_linear(v->vendor, s, &on);
  REQUIRE(timed);
  CHECK(timed->choice().candidates >= 1);
  v->run(*timed->bind(c.buffers(), v->workspace));
  std::vector<float> first = download(v->device, c.out);
  auto found = plan_linear(v->vendor, s);
  REQUIRE(found);
  CHECK(found->choice().from_cache);
  CHECK(found->choice().microseconds == timed->choice().microseconds);
  CHECK(found->workspace_bytes() == timed->workspace_bytes());
  fill_bytes(c.out.at(), 0xff, c.out.memory.bytes(), v->stream());
  v->run(*found->bind(c.buffers(), v->workspace));
  std::vector<float> second = download(v->device, c.out);
  for (size_t i = 0; i < size_t(s.m * s.n); ++i) REQUIRE(first[i] == second[i]);
  s.m = 513;
  CHECK(!plan_linear(v->vendor, s)->choice().from_cache);
}

TEST_CASE("of about as many rows as were timed before, only candidates are timed that were good then") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  auto timed = [&](int64_t m) {
    const LinearShape s{.m = m, .n = 648, .k = 640};
    Case c(*v, s);
    const TuneOn<LinearBuffers> tune{v->stream(), c.buffers(), v->workspace};
    const auto plan = plan_linear(v->vendor, s, &tune);
    REQUIRE(plan);
    return plan->choice().candidates;
  };
  const int first = timed(4096);
  CHECK(first > 4);
  CHECK(timed(4000) <= 4);
  CHECK(timed(512) > 4);
}

TEST_CASE("a bound product runs the same inside a captured graph") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  LinearShape s{.m = 96, .n = 64, .k = 128};
  Case c(*v, s);
  auto call = plan_linear(v->vendor, s)->bind(c.buffers(), v->workspace);
  v->vendor.prepare(v->stream());
  Capture capture(v->stream());
  call->launch(v->stream());
  CapturedGraph graph = capture.finish();
  graph.launch(v->stream());
  v->stream().synchronize();
  CHECK(c.worst_error() < kTolerance16);
}

TEST_CASE("addresses that are missing or worse aligned than promised are refused in words") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  LinearShape s{.m = 16, .n = 16, .k = 16};
  Case c(*v, s);
  auto plan = plan_linear(v->vendor, s);
  REQUIRE(plan);
  LinearBuffers buffers = c.buffers();
  buffers.a += 2;
  CHECK_THROWS_WITH_AS(plan->bind(buffers, v->workspace), doctest::Contains("the address of a"), Error);
  buffers.a = 0;
  CHECK_THROWS_WITH_AS(plan->bind(buffers, v->workspace), doctest::Contains("no address for a"), Error);
}

TEST_CASE("a stored algorithm that the library refuses costs a new choice and nothing else") {
  TestVendor* v = test_vendor(NeedsLibrary::CublasLt);
  if (!v) return;
  LinearShape s{.m = 88, .n = 72, .k = 128};
  Facts facts = linear_facts(v->vendor);
  std::string text = normalised(s).text();
  Blob no_algorithm(80, std::byte(0x7f));  // as long as an entry is; of the library's, whose form is -1
  std::fill(no_algorithm.end() - 4, no_algorithm.end(), std::byte(0xff));
  const Blob no_form(80, std::byte(0x7f)), too_short(5, std::byte(0x7f));
  for (const Blob& garbage : {too_short, no_form, no_algorithm}) {
    v->cache.put(choice_key("linear", text, facts, true), garbage, choice_facts("linear", text, facts, true));
    auto plan = plan_linear(v->vendor, s);
    REQUIRE(plan);
    CHECK(!plan->choice().from_cache);
    check_linear(*v, s);
  }
}

}  // namespace
}  // namespace sinter::cuda
