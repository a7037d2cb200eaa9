#define SINTER_DEVICE_EMULATION
#include <cmath>

#include "backends/cuda/kernels/exact_moments.h"
#include "backends/cuda/kernels/group_stats.device.cpp"
#include "backends/cuda/kernels/group_stats.h"
#include "backends/cuda/kernels/test_targets.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

struct Case {
  int64_t n, pixels, channels, groups;
  DType type = DType::bf16;
  int64_t extra_stride = 0;
  bool affine = true, addend = false;
  float mean = 0.3f, spread = 1;
  int64_t misplaced = 0;  // elements that x lies behind an aligned address
  DType addend_type = DType::f32;
};

/// In f64, from the values as they are in memory.
std::vector<float> reference(const Case& c, const std::vector<float>& x, int64_t stride, const std::vector<float>& gamma,
                             const std::vector<float>& beta, const std::vector<float>& addend, double epsilon) {
  std::vector<float> out(size_t(c.n * 2 * c.channels));
  const int64_t width = c.channels / c.groups;
  for (int64_t n = 0; n < c.n; ++n)
    for (int64_t g = 0; g < c.groups; ++g) {
      auto each = [&](auto&& body) {
        for (int64_t p = 0; p < c.pixels; ++p)
          for (int64_t i = g * width; i < (g + 1) * width; ++i)
            body(double(x[size_t((n * c.pixels + p) * stride + i)]) +
                 (c.addend ? double(addend[size_t(n * c.channels + i)]) : 0));
      };
      const auto [mean, inverse] = exact_moments(each, c.pixels * width, epsilon);
      for (int64_t i = g * width; i < (g + 1) * width; ++i) {
        const double factor = c.affine ? inverse * double(gamma[size_t(i)]) : inverse;
        const double more = c.addend ? double(addend[size_t(n * c.channels + i)]) : 0;
        out[size_t(n * 2 * c.channels + i)] = float(factor);
        out[size_t((n * 2 + 1) * c.channels + i)] = float((c.affine ? double(beta[size_t(i)]) : 0) + (more - mean) * factor);
      }
    }
  return out;
}

void check_case(TestTarget& t, const Case& c) {
  CAPTURE(c.n);
  CAPTURE(c.pixels);
  CAPTURE(c.channels);
  CAPTURE(c.groups);
  CAPTURE(name(c.type));
  const int64_t stride = c.channels + c.extra_stride;
  const auto x = rounded(random_values(size_t(c.n * c.pixels * stride + c.misplaced), 7, c.spread, c.mean), c.type);
  const auto gamma = random_values(size_t(c.channels), 8, 1, 1), beta = random_values(size_t(c.channels), 9);
  const auto addend = rounded(random_values(size_t(c.n * c.channels), 10, 2), c.addend_type);
  GroupStatsCall call{.n = c.n, .pixels = c.pixels, .channels = c.channels, .groups = c.groups, .type = c.type};
  call.x = t.upload(encode(x, c.type)) + DevicePtr(c.misplaced * byte_size(c.type));
  call.pixel_stride = c.extra_stride ? stride : 0;
  if (c.affine) call.gamma = t.upload(gamma), call.beta = t.upload(beta);
  if (c.addend) call.addend = t.upload(encode(addend, c.addend_type)), call.addend_stride = c.channels;
  call.addend_type = c.addend_type;
  call.epsilon = 1e-6;
  call.out = t.untouched(c.n * 2 * c.channels * 4);
  call.workspace = t.untouched(group_stats_workspace_bytes(call, t.multiprocessors()));
  call.counters = t.upload(std::vector<uint32_t>(size_t(kGroupStatsCounters)));
  group_stats(t, call);
  const auto seen = t.download<float>(call.out, size_t(c.n * 2 * c.channels));
  group_stats(t, call);
  CHECK(t.download<float>(call.out, seen.size()) == seen);  // the counters are ready again, and every sum has one order
  const std::vector<float> values(x.begin() + c.misplaced, x.end());
  const auto expected = reference(c, values, stride, gamma, beta, addend, call.epsilon);
  double worst = 0;
  for (size_t i = 0; i < seen.size(); ++i) {
    const double error = std::fabs(double(seen[i]) - double(expected[i])) / (std::fabs(double(expected[i])) + 1e-2);
    worst = error <= worst ? worst : error;  // NaN is worse than anything
    if (std::isnan(error)) worst = INFINITY;
  }
  CHECK(worst < 4e-5);
}

TEST_CASE("group statistics agree with f64 for every type, alignment and width of groups") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::bf16, DType::f16, DType::f32}) {
      check_case(t, {2, 37, 320, 32, type});
      check_case(t, {1, 64, 32, 32, type, 0, false});
      check_case(t, {1, 50, 64, 32, type, 24, true, true});
      check_case(t, {1, 1, 128, 32, type});
      check_case(t, {1, 19, 36, 4, type});  // no whole vectors
      check_case(t, {1, 33, 96, 3, type, 5});
      check_case(t, {2, 9, 64, 1, type, 0, true, false, 0.3f, 1, 3});
    }
    check_case(t, {1, 11, 2560, 32, DType::bf16, 0, true, true});
    check_case(t, {1, 7, 1920, 32, DType::bf16});
    check_case(t, {1, 5, 900, 1, DType::bf16});
  });
}

TEST_CASE("group statistics that blocks share agree with f64 for every type, alignment and width of groups") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::bf16, DType::f16, DType::f32}) {
      check_case(t, {1, 2111, 64, 32, type, 0, true, true, 0.3f, 1, 0, type});
      check_case(t, {2, 1100, 160, 16, type, 8, true, true, 0.3f, 1, 0, DType::f32});
      check_case(t, {1, 4400, 36, 4, type});
      check_case(t, {1, 1300, 96, 1, type, 5, false});
      check_case(t, {1, 2100, 68, 17, type, 0, true, false, 0.3f, 1, 2});
    }
    check_case(t, {1, 500, 2560, 10, DType::bf16, 0, true, true});  // several slabs
  });
}

TEST_CASE("a group's chunks are joined in parts where they do not fit into shared memory together") {
  struct ManyMultiprocessors : EmulatedTarget {
    int multiprocessors() const override { return 200; }
  } t;
  check_case(t, {1, 320 * 110, 64, 64, DType::bf16});
}

TEST_CASE("group statistics keep their digits when the mean is a thousand times the spread") {
  on_each_target([](TestTarget& t) {
    check_case(t, {1, 600, 64, 8, DType::f32, 0, false, false, 30, 0.03f});
    check_case(t, {1, 3000, 64, 8, DType::f32, 0, false, false, 30, 0.03f});
  });
}

TEST_CASE("group statistics of pictures as large as models have") {
  TestDevice* device = test_device();
  if (!device) return;
  DeviceTarget t(*device);
  check_case(t, {2, 128 * 128, 320, 32, DType::bf16, 0, true, true});
  for (int64_t side : {8, 16, 32})
    for (int64_t channels : {640, 1280, 1920, 2560}) check_case(t, {2, side * side, channels, 32});
  for (int64_t channels : {320, 640, 960}) check_case(t, {2, 64 * 64, channels, 32, DType::bf16, 0, true, true});
  check_case(t, {2, 64 * 64, 1920, 32, DType::f16});
  check_case(t, {1, 512 * 512, 128, 32});
  check_case(t, {1, 256 * 256, 512, 32, DType::f32});
}

TEST_CASE("groups that no block can hold are refused") {
  GroupStatsCall call{.n = 1, .pixels = 4, .channels = 3001, .groups = 1};
  CHECK_THROWS_AS(group_stats_workspace_bytes(call, 10), Error);
}

}  // namespace
}  // namespace sinter::cuda
