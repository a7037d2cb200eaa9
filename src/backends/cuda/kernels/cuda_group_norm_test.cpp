#define SINTER_DEVICE_EMULATION
#include "backends/cuda/kernels/group_norm.h"

#include <cmath>

#include "backends/cuda/kernels/exact_moments.h"
#include "backends/cuda/kernels/group_norm.device.cpp"
#include "backends/cuda/kernels/test_targets.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

struct Case {
  int64_t n, pixels, channels, groups;
  DType type = DType::bf16;
  bool silu = true;
  int64_t x_gap = 0, out_gap = 0;  // elements between pixels
  bool affine = true, addend = false;
  DType addend_type = DType::f32;
  float mean = 0.3f, spread = 1;
  int64_t odd_pixel = -1;  // in every picture, of 60 in each channel
};

/// In f64, from the values as they are in memory.
std::vector<float> reference(const Case& c, const std::vector<float>& x, const std::vector<float>& gamma,
                             const std::vector<float>& beta, const std::vector<float>& addend, double epsilon) {
  const int64_t width = c.channels / c.groups, stride = c.channels + c.x_gap;
  std::vector<float> out(size_t(c.n * c.pixels * c.channels));
  for (int64_t n = 0; n < c.n; ++n)
    for (int64_t g = 0; g < c.groups; ++g) {
      auto each = [&](auto&& body) {
        for (int64_t p = 0; p < c.pixels; ++p)
          for (int64_t i = g * width; i < (g + 1) * width; ++i) {
            const double more = c.addend ? double(addend[size_t(n * c.channels + i)]) : 0;
            body(double(x[size_t((n * c.pixels + p) * stride + i)]) + more, p, i);
          }
      };
      const auto [mean, inverse] = exact_moments(each, c.pixels * width, epsilon);
      each([&](double v, int64_t p, int64_t i) {
        double y = (v - mean) * inverse;
        if (c.affine) y = y * double(gamma[size_t(i)]) + double(beta[size_t(i)]);
        out[size_t((n * c.pixels + p) * c.channels + i)] = float(c.silu ? y / (1 + std::exp(-y)) : y);
      });
    }
  return out;
}

const GroupNormLimits kHopper{227 << 10, {132, 66, 39, 30, 22, 17, 15, 15}};
constexpr int kLikeHopper = 0;

/// A device that has room for clusters of so many blocks and no others, or what a Hopper has room for.
GroupNormLimits emulated_limits(int cluster) {
  if (cluster == kLikeHopper) return kHopper;
  GroupNormLimits limits{.shared_bytes = cluster > 1 ? 227 << 10 : 163 << 10, .clusters = {100}};
  if (cluster > 1) limits.clusters[size_t(cluster - 1)] = 100;
  return limits;
}
GroupNormLimits limits_of(TestTarget& t, int cluster) {
  return t.emulated() ? emulated_limits(cluster) : GroupNormLimits::of(static_cast<DeviceTarget&>(t).kernels());
}

void check_case(TestTarget& t, const Case& c, int cluster = 8) {
  CAPTURE(c.n);
  CAPTURE(c.pixels);
  CAPTURE(c.channels);
  CAPTURE(c.groups);
  CAPTURE(cluster);
  CAPTURE(name(c.type));
  const int64_t stride = c.channels + c.x_gap, out_stride = c.channels + c.out_gap;
  auto x = rounded(random_values(size_t(c.n * c.pixels * stride), 7, c.spread, c.mean), c.type);
  for (int64_t n = 0; n < c.n && c.odd_pixel >= 0; ++n)
    for (int64_t i = 0; i < c.channels; ++i) x[size_t((n * c.pixels + c.odd_pixel) * stride + i)] = 60;
  const auto gamma = random_values(size_t(c.channels), 8, 1, 1), beta = random_values(size_t(c.channels), 9);
  const auto addend = rounded(random_values(size_t(c.n * c.channels), 10, 2), c.addend_type);
  GroupNormCall call{.of = {.n = c.n, .pixels = c.pixels, .channels = c.channels, .groups = c.groups, .type = c.type},
                     .silu = c.silu};
  call.of.x = t.upload(encode(x, c.type)), call.of.pixel_stride = c.x_gap ? stride : 0;
  if (c.affine) call.of.gamma = t.upload(gamma), call.of.beta = t.upload(beta);
  if (c.addend) call.of.addend = t.upload(encode(addend, c.addend_type)), call.of.addend_stride = c.channels;
  call.of.addend_type = c.addend_type, call.of.epsilon = 1e-6;
  const int64_t out_bytes = c.n * c.pixels * out_stride * byte_size(c.type);
  call.out = t.untouched(out_bytes), call.out_stride = c.out_gap ? out_stride : 0;
  REQUIRE(group_norm_fits(call, limits_of(t, cluster)));
  group_norm(t, call, limits_of(t, cluster));
  const auto bytes = t.download<uint8_t>(call.out, size_t(out_bytes));
  group_norm(t, call, limits_of(t, cluster));
  CHECK(t.download<uint8_t>(call.out, size_t(out_bytes)) == bytes);  // every sum has one order

  const auto seen = decode(bytes, c.type), expected = reference(c, x, gamma, beta, addend, call.of.epsilon);
  double worst = 0;
  int64_t in_gaps = 0;
  for (int64_t p = 0; p < c.n * c.pixels; ++p)
    for (int64_t i = 0; i < out_stride; ++i) {
      const float v = seen[size_t(p * out_stride + i)];
      if (i >= c.channels) {
        in_gaps += !std::isnan(v);
        continue;
      }
      const double right = double(expected[size_t(p * c.channels + i)]);
      const double error = std::fabs(double(v) - right) / (std::fabs(right) + 1e-2);
      worst = error <= worst ? worst : error;  // NaN is worse than anything
      if (std::isnan(error)) worst = INFINITY;
    }
  CHECK(worst < (c.type == DType::bf16 ? 0.0041 : 0.0007));  // half a unit of the type, and what f32 loses
  CHECK(in_gaps == 0);
}

TEST_CASE("a group norm in one launch agrees with f64 for every width of groups that U-Nets have") {
  on_each_target([](TestTarget& t) {
    for (int64_t channels : {320, 640, 960, 1280, 1920, 2560})
      for (bool silu : {true, false}) check_case(t, {2, 37, channels, 32, DType::bf16, silu});
    check_case(t, {3, 50, 320, 32, DType::f16});
  });
}

TEST_CASE("a group norm in one launch agrees with f64 whatever its sizes, gaps and addends are") {
  on_each_target([](TestTarget& t) {
    for (DType type : {DType::bf16, DType::f16}) {
      check_case(t, {1, 1, 64, 8, type});
      check_case(t, {1, 3, 32, 32, type, true, 0, 0, false});
      check_case(t, {3, 19, 96, 3, type, true, 8, 24, true, true, DType::f16});
      check_case(t, {1, 77, 72, 24, type, false, 16, 0, true, true, DType::bf16});
      check_case(t, {2, 41, 160, 32, type, true, 0, 8, true, true, DType::f32});  // groups of five
      check_case(t, {1, 9, 4096, 1, type});
    }
  });
}

TEST_CASE("a group norm in one launch agrees with f64 where blocks share groups, the last with fewer pixels or none") {
  on_each_target([](TestTarget& t) {
    for (int cluster : {2, 3, 4, 7, 8}) check_case(t, {1, 1013, 80, 8, DType::bf16, true, 0, 0, true, true}, cluster);
    check_case(t, {2, 600, 40, 4, DType::f16, true, 8});
    check_case(t, {1, 129, 960, 4, DType::bf16});
    check_case(t, {1, 9, 4096, 1, DType::bf16});  // the last have no pixels
    check_case(t, {1, 1500, 40, 1, DType::bf16}, 1);
  });
}

TEST_CASE("a group norm in one launch keeps its digits when the mean is a hundred times the spread") {
  on_each_target([](TestTarget& t) {
    check_case(t, {1, 600, 64, 8, DType::f16, true, 0, 0, true, false, DType::f32, 30, 0.3f});
    check_case(t, {1, 1100, 40, 4, DType::f16, false, 0, 0, true, true, DType::f32, 30, 0.3f});
  });
}

TEST_CASE("a group norm in one launch keeps its digits whatever pixel is like no other") {
  on_each_target([](TestTarget& t) {
    for (int64_t pixel : {0, 1, 149, 150, 300, 450, 599}) {
      Case c{2, 600, 64, 8, DType::f16};
      c.odd_pixel = pixel;
      check_case(t, c);
    }
  });
}

TEST_CASE("a group norm in one launch agrees with f64 as a Hopper shares the work of maps that models have") {
  EmulatedTarget t;
  check_case(t, {2, 32 * 32, 640, 32}, kLikeHopper);  // slabs of 160 bytes, whole sectors
  check_case(t, {1, 64 * 64, 320, 32, DType::f16, true, 0, 0, true, true, DType::f16}, kLikeHopper);
}

TEST_CASE("group norms in one launch of maps as large as models have") {
  TestDevice* device = test_device();
  if (!device) return;
  DeviceTarget t(*device);
  if (GroupNormLimits::of(t.kernels()).clusters[1] == 0) {
    MESSAGE("skipped: this device has no clusters");
    return;
  }
  for (int64_t side : {8, 16, 32})
    for (int64_t channels : {640, 1280, 1920, 2560}) check_case(t, {2, side * side, channels, 32});
  for (int64_t channels : {320, 640, 960, 1280})
    check_case(t, {2, 64 * 64, channels, 32, DType::bf16, true, 0, 0, true, true, DType::bf16});
  check_case(t, {1, 128 * 128, 320, 32, DType::f16});
  check_case(t, {1, 47 * 83, 640, 32});
  check_case(t, {3, 33 * 31, 320, 32, DType::f16, false});
}

TEST_CASE("what is no group norm of one launch is said so and refused") {
  const GroupNormLimits ampere{163 << 10, {108}};
  GroupNormCall call{.of = {.n = 2, .pixels = 4096, .channels = 320, .groups = 32}};
  CHECK(group_norm_fits(call, kHopper));
  CHECK_FALSE(group_norm_fits(call, ampere));
  auto refused = [&](auto change) {
    GroupNormCall other = call;
    change(other);
    CHECK_FALSE(group_norm_fits(other, kHopper));
    EmulatedTarget t;
    CHECK_THROWS_AS(group_norm(t, other, kHopper), Error);
  };
  refused([](GroupNormCall& c) { c.of.type = DType::f32; });
  refused([](GroupNormCall& c) { c.of.pixels = 1 << 20; });
  refused([](GroupNormCall& c) { c.of.pixels = int64_t(1) << 28; });  // 2^32 bytes of a slab
  refused([](GroupNormCall& c) { c.of.pixels = 128 * 128; });         // 16 clusters of 8, which have no room together
  refused([](GroupNormCall& c) { c.of.x = 8; });
  refused([](GroupNormCall& c) { c.out = 2; });
  refused([](GroupNormCall& c) { c.out_stride = 324; });
  refused([](GroupNormCall& c) { c.of.channels = 36, c.of.groups = 4; });
  refused([](GroupNormCall& c) { c.of.channels = 10240, c.of.groups = 1; });
  call.of.pixels = 1024;
  CHECK(group_norm_fits(call, ampere));
}

TEST_CASE("a group norm in one launch takes as many blocks as are on the device together, and no more than are worth it") {
  struct Recorder : EmulatedTarget {
    LaunchShape seen;
    void launch(std::string_view, const LaunchShape& shape, std::span<void* const>) override { seen = shape; }
  } t;
  auto cluster_of = [&](int64_t n, int64_t side, int64_t channels) {
    GroupNormCall call{.of = {.n = n, .pixels = side * side, .channels = channels, .groups = 32}};
    group_norm(t, call, kHopper);
    CHECK(t.seen.grid.x == t.seen.cluster);
    CHECK((t.seen.cluster == 1 || t.seen.shared_bytes > kHopper.shared_bytes / 2));  // one to a multiprocessor
    CHECK(t.seen.shared_bytes <= kHopper.shared_bytes);
    return t.seen.cluster;
  };
  CHECK(cluster_of(2, 8, 1280) == 1);    // 5 KB a slab
  CHECK(cluster_of(2, 16, 1280) == 2);   // 64 slabs
  CHECK(cluster_of(2, 64, 640) == 6);    // 16, as many blocks as three for each of 32
  CHECK(cluster_of(2, 64, 320) == 6);    // 16
  CHECK(cluster_of(1, 128, 320) == 8);   // 8
  CHECK(cluster_of(16, 32, 1280) == 1);  // 512: those that one block holds need no other
}

}  // namespace
}  // namespace sinter::cuda
