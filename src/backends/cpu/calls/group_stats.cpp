#include "backends/cpu/calls/group_stats.h"

#include <algorithm>
#include <cmath>

#include "backends/cpu/calls/panels.h"
#include "backends/cpu/calls/rows.h"
#include "backends/cpu/calls/vector_kernels.h"
#include "base/error.h"

namespace sinter {
namespace {

constexpr int64_t kMostRun = 16;  // pixels

/// Count, mean and sum of squared distances from it; two of them join exactly (Chan, Golub and LeVeque 1983).
struct Moments {
  double count = 0, mean = 0, squares = 0;
  void join(const Moments& o) {
    if (o.count == 0) return;
    double total = count + o.count, distance = o.mean - mean;
    mean += distance * (o.count / total);
    squares += o.squares + distance * distance * (count * o.count / total);
    count = total;
  }
};

struct Plan {
  int64_t chunk, chunks;  // pixels
  int64_t moments_bytes, worker_bytes, row_floats;
};

Plan make_plan(int64_t n, int64_t pixels, int64_t channels, int64_t groups, int threads) {
  Plan p;
  // Pieces of about 1 MiB, some 50 microseconds each, as long as that leaves work for all threads; f32 sums run over at most
  // 1024 pixels.
  int64_t most = std::clamp<int64_t>((1 << 20) / (channels * 4), 1, 1024);
  p.chunk = std::clamp<int64_t>(divide_up(n * pixels, 8 * threads), 1, most);
  p.chunks = divide_up(pixels, p.chunk);
  p.moments_bytes = round_up(n * p.chunks * groups * int64_t(sizeof(Moments)), 64);
  p.row_floats = round_up(channels, 16);
  p.worker_bytes = round_up((3 + kMostRun) * p.row_floats * 4, 4096) + 192;
  return p;
}

class Run {
 public:
  Run(const GroupStatsCall& call, int vector_floats, int threads)
      : c_(call),
        vector_(vector_kernels(vector_floats)),
        p_(make_plan(call.n, call.pixels, call.channels, call.groups, threads)) {}

  void operator()(ThreadPool& pool) {
    pool.parallel_for(c_.n * p_.chunks, 1, [&](int64_t begin, int64_t end, int worker) {
      for (int64_t i = begin; i < end; ++i) sum(i / p_.chunks, i % p_.chunks, worker);
    });
    for (int64_t n = 0; n < c_.n; ++n)
      for (int64_t group = 0; group < c_.groups; ++group) finish(n, group);
  }

 private:
  Moments* moments(int64_t n, int64_t chunk) const {
    return static_cast<Moments*>(c_.workspace) + (n * p_.chunks + chunk) * c_.groups;
  }

  void sum(int64_t n, int64_t chunk, int worker) const {
    auto* shift = reinterpret_cast<float*>(static_cast<char*>(c_.workspace) + p_.moments_bytes + worker * p_.worker_bytes);
    float *sums = shift + p_.row_floats, *squares = sums + p_.row_floats, *converted = squares + p_.row_floats;
    const int64_t first = chunk * p_.chunk, count = std::min(p_.chunk, c_.pixels - first), bytes = byte_size(c_.type);
    const char* x = static_cast<const char*>(c_.x) + (n * c_.pixels + first) * c_.pixel_stride * bytes;
    convert_row(x, c_.type, shift, DType::f32, c_.channels);
    std::fill_n(sums, c_.channels, 0.f);
    std::fill_n(squares, c_.channels, 0.f);
    // As many pixels at a time as the prefetcher follows: about two pages.
    const int64_t most = std::clamp<int64_t>(8192 / (c_.channels * 4), 4, kMostRun);
    for (int64_t i = 0; i < count; i += most) {
      const int64_t run = std::min(most, count - i);
      if (c_.type == DType::f32) {
        vector_.column_sums(
            {reinterpret_cast<const float*>(x) + i * c_.pixel_stride, c_.pixel_stride, run, c_.channels, shift, sums, squares});
        continue;
      }
      for (int64_t r = 0; r < run; ++r)
        convert_row(x + (i + r) * c_.pixel_stride * bytes, c_.type, converted + r * p_.row_floats, DType::f32, c_.channels);
      vector_.column_sums({converted, p_.row_floats, run, c_.channels, shift, sums, squares});
    }
    const int64_t width = c_.channels / c_.groups;
    for (int64_t group = 0; group < c_.groups; ++group)
      moments(n, chunk)[group] =
          joined(shift + group * width, sums + group * width, squares + group * width, width, double(count));
  }

  /// The channels of one group, that all have the same count.
  static Moments joined(const float* shift, const float* sums, const float* squares, int64_t channels, double count) {
    const double share = 1 / count;
    double mean = 0, spread = 0;
    for (int64_t c = 0; c < channels; ++c) mean += double(shift[c]) + double(sums[c]) * share;
    mean /= double(channels);
    for (int64_t c = 0; c < channels; ++c) {
      double offset = double(sums[c]) * share, distance = double(shift[c]) + offset - mean;
      double own = double(squares[c]) - offset * double(sums[c]);
      spread += (own < 0 ? 0 : own) + count * distance * distance;  // NaN stays
    }
    return {count * double(channels), mean, spread};
  }

  void finish(int64_t n, int64_t group) const {
    Moments all;
    for (int64_t chunk = 0; chunk < p_.chunks; ++chunk) all.join(moments(n, chunk)[group]);
    const double inverse = 1 / std::sqrt(all.squares / all.count + c_.epsilon);
    const int64_t width = c_.channels / c_.groups;
    float *scale = c_.out + n * 2 * c_.channels, *shift = scale + c_.channels;
    for (int64_t c = group * width; c < (group + 1) * width; ++c) {
      double factor = inverse * (c_.gamma ? double(c_.gamma[c]) : 1);
      scale[c] = float(factor);
      shift[c] = float((c_.beta ? double(c_.beta[c]) : 0) - all.mean * factor);
    }
  }

  const GroupStatsCall& c_;
  const VectorKernels& vector_;
  Plan p_;
};

}  // namespace

int64_t group_stats_workspace_bytes(int64_t n, int64_t pixels, int64_t channels, int64_t groups, int threads) {
  Plan plan = make_plan(n, pixels, channels, groups, threads);
  return plan.moments_bytes + threads * plan.worker_bytes;
}

void group_stats(const GroupStatsCall& call, int vector_floats, ThreadPool& pool) {
  SINTER_ASSERT(call.groups > 0 && call.channels % call.groups == 0);
  if (call.n <= 0 || call.pixels <= 0) return;
  Run run(call, vector_floats, pool.threads());
  run(pool);
}

}  // namespace sinter
