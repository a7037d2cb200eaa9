#include <doctest/doctest.h>

#include "backends/cuda/calls/conv.h"
#include "backends/cuda/calls/device_test_tools.h"
#include "backends/cuda/calls/own_conv.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

// In units of the sum of the absolute terms, beyond the rounding of the result.
double tolerance(const ConvShape& s) {
  if (s.type == DType::f32) return s.allow_tf32 ? 1e-3 : 2e-6;
  // The library's exponential is not exact; matrix units cut off what they add.
  return s.silu ? 1e-4 : 1e-5;
}

ConvShape conv(int64_t n, int64_t h, int64_t w, int64_t c, int64_t out_c, DType type) {
  return {.n = n, .c = c, .out_c = out_c, .axes = {{.in = h}, {.in = w}}, .type = type, .bias = true};
}

struct Case {
  TestVendor& vendor;
  ConvShape s;
  DeviceTensor in, weights, out, bias, residual;

  Case(TestVendor& v, const ConvShape& shape) : vendor(v), s(shape) {
    TestDevice& d = v.device;
    int64_t pixels = s.n, window = 1;
    for (const auto& a : s.axes) {
      pixels *= a.in;
      window *= a.kernel;
    }
    in = random_tensor(d, pixels * s.c, s.type);
    weights = random_tensor(d, s.out_c * window * s.c, s.type);
    bias = random_tensor(d, s.out_c, s.type);
    if (s.residual) residual = random_tensor(d, s.out_pixels() * s.out_c, s.type);
    out = poisoned_tensor(d, s.out_pixels() * s.out_c + 64, s.type);
  }
  ConvBuffers buffers() const {
    return {
        .in = in.at(), .weights = weights.at(), .out = out.at(), .bias = bias.at(), .residual = s.residual ? residual.at() : 0};
  }

  /// One output, in double; two axes are three with one of size 1.
  void expected(int64_t pixel, int64_t channel, double& value, double& terms) const {
    std::vector<ConvAxis> axes = s.axes;
    if (axes.size() == 2) axes.insert(axes.begin(), {.in = 1, .kernel = 1, .pad_before = 0, .pad_after = 0});
    auto size = [&](int i) { return axes.size() > s.axes.size() && i == 0 ? 1 : s.out_size(axes[size_t(i)]); };
    int64_t at[3], rest = pixel;
    for (int i = 3; i-- > 0;) {
      at[i] = rest % size(i);
      rest /= size(i);
    }
    value = terms = 0;
    auto add = [&](double x) {
      value += x;
      terms += std::abs(x);
    };
    for (int64_t i = 0; i < axes[0].kernel; ++i)
      for (int64_t j = 0; j < axes[1].kernel; ++j)
        for (int64_t k = 0; k < axes[2].kernel; ++k) {
          int64_t window[3] = {i, j, k}, from = rest, weight = s.doubles ? 0 : channel;
          bool inside = true;
          for (size_t a = 0; a < 3; ++a) {
            int64_t position = at[a] * axes[a].stride - axes[a].pad_before + window[a] * axes[a].dilation;
            if (s.doubles) {
              position = at[a] + axes[a].pad_before - window[a];
              inside = inside && position % 2 == 0;
              position /= 2;
            }
            inside = inside && position >= 0 && position < axes[a].in;
            from = from * axes[a].in + position;
            weight = weight * axes[a].kernel + window[a];
          }
          if (!inside) continue;
          const int64_t taps = axes[0].kernel * axes[1].kernel * axes[2].kernel;
          for (int64_t c = 0; c < s.c; ++c) {
            const int64_t tap = s.doubles ? (c * taps + weight) * s.out_c + channel : weight * s.c + c;
            add(double(in.values[size_t(from * s.c + c)]) * weights.values[size_t(tap)]);
          }
        }
    if (s.bias) add(bias.values[size_t(channel)]);
    if (s.residual) add(residual.values[size_t(pixel * s.out_c + channel)]);
    if (s.silu) value /= 1 + std::exp(-value);
  }

  /// Every output is written and nothing behind them; those compared are spread over all.
  double worst_error() const {
    std::vector<float> got = download(vendor.device, out);
    int64_t count = s.out_pixels() * s.out_c;
    for (int64_t i = 0; i < int64_t(got.size()); ++i)
      if (std::isnan(got[size_t(i)]) == (i < count)) return 1e9;
    DeviceErrorMeter meter{s.type};
    int64_t checked = std::min<int64_t>(count, std::max<int64_t>(500, int64_t(2e8 / (s.flops() / double(count)))));
    std::uniform_int_distribution<int64_t> any(0, count - 1);
    for (int64_t i = 0; i < checked; ++i) {
      int64_t at = checked == count ? i : any(device_test_bits());
      double value, terms;
      expected(at / s.out_c, at % s.out_c, value, terms);
      meter.add(got[size_t(at)], value, terms);
    }
    return meter.worst;
  }
};

void check_conv(TestVendor& vendor, const ConvShape& shape, bool tune = false) {
  CAPTURE(shape.text());
  Case c(vendor, shape);
  TuneOn<ConvBuffers> on{vendor.stream(), c.buffers(), vendor.workspace};
  auto plan = plan_conv(vendor.vendor, shape, tune ? &on : nullptr);
  REQUIRE_MESSAGE(plan, plan.why_none);
  fill_bytes(c.out.at(), 0xff, c.out.memory.bytes(), vendor.stream());
  DeviceMemory more;  // some f32 engines want more than the tests' workspace
  Workspace workspace = vendor.workspace;
  if (plan->workspace_bytes() > workspace.bytes) {
    more = DeviceMemory(vendor.device.context, plan->workspace_bytes());
    workspace = {more.address(), more.bytes()};
  }
  vendor.run(*plan->bind(c.buffers(), workspace));
  CHECK(c.worst_error() < tolerance(shape));
}

TEST_CASE("convolutions of small and odd pictures agree with sums in double in every type") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (DType type : {DType::bf16, DType::f16, DType::f32}) {
    check_conv(*v, conv(2, 9, 7, 32, 40, type));
    check_conv(*v, conv(1, 1, 1, 64, 64, type));
    check_conv(*v, conv(1, 16, 16, 8, 320, type));
    check_conv(*v, conv(3, 5, 17, 320, 8, type));
    ConvShape plain = conv(1, 12, 10, 64, 64, type);
    plain.bias = false;
    check_conv(*v, plain);
  }
}

TEST_CASE("convolutions from and to latents and pictures are right with 3 and 4 channels") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (DType type : {DType::bf16, DType::f16, DType::f32})
    for (auto [c, out_c] : {std::pair<int64_t, int64_t>{4, 64}, {64, 4}, {3, 128}, {128, 3}, {9, 64}})
      check_conv(*v, conv(2, 16, 24, c, out_c, type));
}

TEST_CASE("strides and one-sided padding are right") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (DType type : {DType::bf16, DType::f32})
    for (int64_t size : {16, 17}) {
      ConvShape down = conv(2, size, size, 64, 64, type);
      for (auto& a : down.axes) a.stride = 2;
      check_conv(*v, down);
      for (auto& a : down.axes) a.pad_before = 0;
      check_conv(*v, down);
    }
}

TEST_CASE("convolutions to twice the size are right, of single pixels too") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (DType type : {DType::bf16, DType::f16, DType::f32})
    for (bool tune : {false, true})
      for (auto [h, w] : {std::pair<int64_t, int64_t>{9, 7}, {1, 1}}) {
        ConvShape s = conv(2, h, w, 32, 64, type);
        for (auto& a : s.axes) a.kernel = 4, a.stride = 2;
        s.doubles = true, s.bias = false;
        check_conv(*v, s, tune);
      }
}

TEST_CASE("a convolution to twice the size that may leave out its bias leaves it to the caller or adds it") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (DType type : {DType::bf16, DType::f32})
    for (int64_t size : {5, 48}) {
      ConvShape s = conv(2, size, size, 32, 640, type);
      for (auto& a : s.axes) a.kernel = 4, a.stride = 2;
      s.doubles = s.rest_may_follow = true;
      Case c(*v, s);
      TuneOn<ConvBuffers> on{v->stream(), c.buffers(), v->workspace};
      auto plan = plan_conv(v->vendor, s, &on);
      REQUIRE_MESSAGE(plan, plan.why_none);
      CHECK((plan->is_own() || !plan->shape().bias));
      v->run(*plan->bind(c.buffers(), v->workspace));
      c.s = plan->shape();
      CHECK(c.worst_error() < tolerance(s));
    }
}

TEST_CASE("residual and SiLU behind a convolution are right, in every combination and both chosen ways") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (DType type : {DType::bf16, DType::f16})
    for (bool residual : {false, true})
      for (bool silu : {false, true}) {
        ConvShape s = conv(2, 16, 16, 64, 128, type);
        s.residual = residual;
        s.silu = silu;
        check_conv(*v, s, residual);
      }
}

/// Null where there are no tile windows, after saying so.
TestDevice* device_with_windows() {
  TestDevice* device = test_device();
  if (!device) return nullptr;
  const std::string why = why_no_own_conv(conv(2, 64, 64, 320, 320, DType::bf16), device->context.device());
  if (why.empty()) return device;
  MESSAGE("skipped: " << why);
  return nullptr;
}

TEST_CASE("where kernels of ours should win they are chosen untimed, with their residual, and are right") {
  TestDevice* device = device_with_windows();
  TestVendor* v = device ? test_vendor(NeedsLibrary::CublasLt) : nullptr;
  if (!v) return;
  for (auto [h, w, c, out_c] : {std::array<int64_t, 4>{64, 64, 320, 320}, {28, 36, 640, 1280}}) {
    ConvShape s = conv(2, h, w, c, out_c, h == w ? DType::bf16 : DType::f16);
    s.residual = s.rest_may_follow = true;
    REQUIRE(own_conv_should_win(s, device->context.device()));
    Vendor without_cache(device->context, nullptr, {}, &v->kernels);
    auto plan = plan_conv(without_cache, s);
    REQUIRE(plan);
    CHECK(plan->is_own());
    CHECK(plan->shape().residual);
    Case one(*v, s);
    v->run(*plan->bind(one.buffers(), v->workspace));
    CHECK(one.worst_error() < tolerance(s));
  }
}

TEST_CASE("a timed choice between the library and tile windows is stored, found again and gives the same bits") {
  TestDevice* device = device_with_windows();
  TestVendor* v = device ? test_vendor(NeedsLibrary::Cudnn) : nullptr;
  if (!v) return;
  for (auto [h, w, c, out_c] : {std::array<int64_t, 4>{64, 64, 320, 320}, {8, 8, 64, 64}, {28, 36, 1280, 1280}}) {
    ConvShape s = conv(2, h, w, c, out_c, DType::bf16);
    s.residual = s.rest_may_follow = true;
    Case one(*v, s);
    TuneOn<ConvBuffers> on{v->stream(), one.buffers(), v->workspace, prepare_conv(v->vendor, s)};
    auto timed = plan_conv(v->vendor, s, &on);
    REQUIRE_MESSAGE(timed, timed.why_none);
    CHECK(timed->choice().microseconds > 0);
    v->run(*timed->bind(one.buffers(), v->workspace));
    std::vector<float> first = download(v->device, one.out);
    auto found = plan_conv(v->vendor, s, &on);
    REQUIRE(found);
    CHECK(found->choice().from_cache);
    CHECK(found->tile_form() == timed->tile_form());
    CHECK(found->shape() == timed->shape());
    if (found->is_own()) CHECK(prepare_conv(v->vendor, s) == nullptr);
    fill_bytes(one.out.at(), 0xff, one.out.memory.bytes(), v->stream());
    v->run(*found->bind(one.buffers(), v->workspace));
    std::vector<float> second = download(v->device, one.out);
    for (int64_t i = 0; i < s.out_pixels() * s.out_c; ++i) REQUIRE(first[size_t(i)] == second[size_t(i)]);
  }
}

TEST_CASE("every kernel of ours that competes for pictures that are not square is right") {
  TestDevice* device = device_with_windows();
  TestVendor* v = device ? test_vendor(NeedsLibrary::CublasLt) : nullptr;
  if (!v) return;
  Vendor with_kernels(device->context, nullptr, {}, &v->kernels);
  for (auto [h, w, c, out_c] : {std::array<int64_t, 4>{28, 36, 1280, 1280}, {26, 38, 640, 1280}, {14, 18, 1280, 1280}}) {
    ConvShape s = conv(2, h, w, c, out_c, DType::bf16);
    s.residual = true;
    Case one(*v, s);
    for (int form : own_conv_forms(s, device->context.device())) {
      CAPTURE(own_conv_name(s, form));
      fill_bytes(one.out.at(), 0xff, one.out.memory.bytes(), v->stream());
      v->run(*ConvPlan(with_kernels, s, form, {}).bind(one.buffers(), v->workspace));
      CHECK(one.worst_error() < tolerance(s));
    }
  }
}

TEST_CASE("the convolutions of Stable Diffusion at full size are right") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  for (auto [n, size, c, out_c] : {std::array<int64_t, 4>{2, 64, 320, 320},
                                   {2, 32, 640, 640},
                                   {2, 16, 1280, 1280},
                                   {2, 8, 2560, 1280},
                                   {2, 64, 960, 320},
                                   {1, 64, 512, 512},
                                   {1, 128, 512, 256}})
    check_conv(*v, conv(n, size, size, c, out_c, DType::bf16), true);
}

TEST_CASE("f32 convolutions keep all digits unless TF32 is allowed") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  ConvShape s = conv(1, 32, 32, 320, 320, DType::f32);
  check_conv(*v, s);
  check_conv(*v, s, true);
  s.allow_tf32 = true;
  check_conv(*v, s, true);
}

TEST_CASE("a convolution over three axes is right") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  ConvShape s{
      .n = 1, .c = 32, .out_c = 48, .axes = {{.in = 5, .pad_before = 2, .pad_after = 0}, {.in = 9}, {.in = 12}}, .bias = true};
  check_conv(*v, s);
}

TEST_CASE("a convolution's plan is stored, found again and gives the same bits") {
  TestVendor* v = test_vendor(NeedsLibrary::Cudnn);
  if (!v) return;
  ConvShape s = conv(1, 24, 24, 64, 96, DType::bf16);
  for (bool residual : {false, true}) {
    s.residual = residual;
    Case c(*v, s);
    TuneOn<ConvBuffers> on{v->stream(), c.buffers(), v->workspace};
    auto timed = plan_conv(v->vendor, s, &on);
    REQUIRE_MESSAGE(timed, timed.why_none);
    CHECK(timed->choice().microseconds > 0);
    v->run(*timed->bind(c.buffers(), v->workspace));
    std::vector<float> first = download(v->device, c.out);
    auto found = plan_conv(v->vendor, s);
    REQUIRE(found);
    CHECK(found->choice().from_cache);
    CHECK(found->choice().microseconds == timed->choice().microseconds);
    fill_bytes(c.out.at(), 0xff, c.out.memory.bytes(), v->stream());
    v->run(*found->bind(c.buffers(), v->workspace));
    std::vector<float> second = download(v->device, c.out);
    for (int64_t i = 0; i < s.out_pixels() * s.out_c; ++i) REQUIRE(first[size_t(i)] == second[size_t(i)]);
  }
}

}  // namespace
}  // namespace sinter::cuda
