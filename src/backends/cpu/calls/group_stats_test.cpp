#include "backends/cpu/calls/group_stats.h"

#include "backends/cpu/calls/test_tools.h"

namespace sinter {
namespace {

using namespace calls_test;

TEST_CASE("scale and shift normalise each group, for random shapes, strides and types, and means far from zero") {
  ThreadPool one(1), four(4);
  for (int vector_floats : {8, 16}) {
    if (vector_floats == 16 && !host_cpu().level_avx512()) {
      MESSAGE("skipped: avx512, this CPU has no AVX-512");
      continue;
    }
    for (int i = 0; i < 100; ++i) {
      ThreadPool& pool = pick(0, 1) ? one : four;
      DType types[] = {DType::f32, DType::bf16, DType::f16};
      GroupStatsCall c;
      c.n = pick(1, 3), c.pixels = pick(0, 1) ? pick(1, 50) : pick(300, 3000), c.groups = pick(1, 8);
      c.channels = c.groups * pick(1, 20), c.type = types[pick(0, 2)], c.pixel_stride = c.channels + pick(0, 5);
      double offset = c.type == DType::f32 && pick(0, 1) ? 1000 : 0;
      auto values = normal(c.n * c.pixels * c.pixel_stride);
      for (float& x : values) x += float(offset);
      Stored x(values, c.type);
      auto gamma = normal(c.channels), beta = normal(c.channels);
      std::vector<float> out(size_t(c.n * 2 * c.channels));
      Buffer workspace(group_stats_workspace_bytes(c.n, c.pixels, c.channels, c.groups, pool.threads()));
      c.x = x.data(), c.out = out.data(), c.workspace = workspace.get();
      if (pick(0, 3)) c.gamma = gamma.data(), c.beta = beta.data();
      group_stats(c, vector_floats, pool);
      CHECK(workspace.guard_intact());
      CAPTURE(c.n);
      CAPTURE(c.pixels);
      CAPTURE(c.channels);
      CAPTURE(c.groups);
      CAPTURE(name(c.type));
      CAPTURE(offset);
      const int64_t width = c.channels / c.groups;
      double worst = 0;
      for (int64_t n = 0; n < c.n; ++n)
        for (int64_t g = 0; g < c.groups; ++g) {
          auto at = [&](int64_t p, int64_t ch) {
            return double(x.values[size_t((n * c.pixels + p) * c.pixel_stride + g * width + ch)]);
          };
          double mean = 0, variance = 0, count = double(c.pixels * width);
          for (int64_t p = 0; p < c.pixels; ++p)
            for (int64_t ch = 0; ch < width; ++ch) mean += at(p, ch) / count;
          for (int64_t p = 0; p < c.pixels; ++p)
            for (int64_t ch = 0; ch < width; ++ch) variance += (at(p, ch) - mean) * (at(p, ch) - mean) / count;
          for (int64_t ch = 0; ch < width; ++ch) {
            size_t j = size_t(g * width + ch);
            double scale = (c.gamma ? double(gamma[j]) : 1) / std::sqrt(variance + c.epsilon);
            double shift = (c.beta ? double(beta[j]) : 0) - mean * scale;
            double got_scale = out[size_t(n * 2 * c.channels) + j], got_shift = out[size_t((n * 2 + 1) * c.channels) + j];
            worst = std::max(worst, std::abs(got_scale - scale) / (std::abs(scale) * 2e-6 + 1e-9));
            worst = std::max(worst, std::abs(got_shift - shift) / (std::abs(mean * scale) * 2e-6 + 2e-6));
          }
        }
      CHECK(worst <= 1);
    }
  }
}

TEST_CASE("a NaN spoils its own group and no other") {
  ThreadPool four(4);
  auto values = normal(500 * 12);
  values[37 * 12 + 5] = NAN;
  std::vector<float> out(24);
  Buffer workspace(group_stats_workspace_bytes(1, 500, 12, 3, 4));
  group_stats({.pixels = 500,
               .channels = 12,
               .groups = 3,
               .x = values.data(),
               .pixel_stride = 12,
               .out = out.data(),
               .workspace = workspace.get()},
              8, four);
  for (size_t c = 0; c < 12; ++c) CHECK(std::isnan(1.f * out[c] + out[12 + c]) == (c / 4 == 1));
}

}  // namespace
}  // namespace sinter
