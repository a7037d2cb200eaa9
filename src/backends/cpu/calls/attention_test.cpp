#include "backends/cpu/calls/attention.h"

#include "backends/cpu/calls/test_tools.h"
#include "backends/cpu/calls/vector_kernels.h"

namespace sinter {
namespace {

using namespace calls_test;

constexpr float kInf = INFINITY;

struct Case {
  AttentionShape shape;
  int bias_dims = 0;  ///< bit 0: per batch entry, 1: per head, 2: per query, 3: per key; 0: no bias
  bool masked = false;
};

/// Heads side by side in a row, as projections leave them, with room between rows.
HeadStrides interleaved(int64_t t, int64_t heads, int64_t d, int64_t gap) { return {t * (heads * d + gap), heads * d + gap, d}; }
/// [b, heads, t, d].
HeadStrides separate(int64_t t, int64_t heads, int64_t d) { return {heads * t * d, d, t * d}; }

void check_attention(Case c, const Microkernels& kernels, ThreadPool& pool) {
  const AttentionShape& s = c.shape;
  CAPTURE(s.b);
  CAPTURE(s.heads);
  CAPTURE(s.queries);
  CAPTURE(s.keys);
  CAPTURE(s.d);
  CAPTURE(s.causal);
  CAPTURE(name(s.in));
  CAPTURE(c.bias_dims);
  CAPTURE(c.masked);
  CAPTURE(pool.threads());
  CAPTURE(kernels.vector_floats);
  HeadStrides qs = interleaved(s.queries, s.heads, s.d, 3), ks = interleaved(s.keys, s.heads, s.d, 0),
              vs = separate(s.keys, s.heads, s.d);
  HeadStrides os = interleaved(s.queries, s.heads, s.d, 2);
  Stored q(normal(s.b * qs.b), s.in), k(normal(s.b * ks.b), s.in), v(normal(s.b * vs.b), s.in);
  auto extent = [&](int bit, int64_t size) { return c.bias_dims >> bit & 1 ? size : 1; };
  int64_t nb = extent(0, s.b), nh = extent(1, s.heads), nq = extent(2, s.queries), nk = extent(3, s.keys);
  auto bias = normal(nb * nh * nq * nk);
  if (c.masked)
    for (size_t i = 0; i < bias.size(); ++i)
      if (pick(0, 2) == 0 || int64_t(i) < nk) bias[i] = -kInf;
  HeadStrides bs{nb > 1 ? nh * nq * nk : 0, nq > 1 ? nk : 0, nh > 1 ? nq * nk : 0};
  Buffer out(s.b * os.b * byte_size(s.out)), workspace(attention_workspace_bytes(s, pool.threads(), kernels));
  AttentionCall call{.shape = s,
                     .q = q.data(),
                     .k = k.data(),
                     .v = v.data(),
                     .q_strides = qs,
                     .k_strides = ks,
                     .v_strides = vs,
                     .bias = c.bias_dims ? bias.data() : nullptr,
                     .bias_strides = bs,
                     .bias_key_stride = nk > 1,
                     .out = out.get(),
                     .out_strides = os,
                     .workspace = workspace.get()};
  attention(call, kernels, pool);
  CHECK(workspace.guard_intact());
  CHECK(out.guard_intact());
  double worst = 0;
  for (int64_t b = 0; b < s.b; ++b)
    for (int64_t h = 0; h < s.heads; ++h)
      for (int64_t i = 0; i < s.queries; ++i) {
        std::vector<double> score(static_cast<size_t>(s.keys), -kInf), expected(static_cast<size_t>(s.d));
        auto value = [&](int64_t j, int64_t x) { return double(v.values[size_t(b * vs.b + h * vs.h + j * vs.t + x)]); };
        double most = -kInf, sum = 0;
        for (int64_t j = 0; j < (s.causal ? std::min(s.keys, i + 1) : s.keys); ++j) {
          double dot = 0;
          for (int64_t x = 0; x < s.d; ++x)
            dot += double(q.values[size_t(b * qs.b + h * qs.h + i * qs.t + x)]) *
                   k.values[size_t(b * ks.b + h * ks.h + j * ks.t + x)];
          dot *= s.scale;
          if (c.bias_dims) dot += bias[size_t(b * bs.b + h * bs.h + i * bs.t + (nk > 1 ? j : 0))];
          score[size_t(j)] = dot, most = std::max(most, dot);
        }
        for (int64_t j = 0; j < s.keys; ++j) {
          double p = most == -kInf ? 0 : std::exp(score[size_t(j)] - most);
          sum += p;
          for (int64_t x = 0; x < s.d; ++x) expected[size_t(x)] += p * value(j, x);
          score[size_t(j)] = p;
        }
        for (int64_t x = 0; x < s.d; ++x) {
          float got;
          convert(out.get() + (b * os.b + h * os.h + i * os.t + x) * byte_size(s.out), s.out, &got, DType::f32, 1);
          double want = sum == 0 ? 0 : expected[size_t(x)] / sum;
          // Exponentials cut to eight bits err by up to 1/256, independently; an error that all share cancels.
          double allowed = s.out == DType::bf16 ? 0.004 * (std::abs(want) + 0.01) : 4e-6, squares = 0;
          if (s.in == DType::bf16 && kernels.dot && sum > 0) {
            for (int64_t j = 0; j < s.keys; ++j) squares += std::pow(score[size_t(j)] / sum * (value(j, x) - want), 2);
            allowed += std::sqrt(squares) * 3 / 256;
          }
          if (std::isnan(got)) worst = 1e9;
          worst = std::max(worst, std::abs(got - want) / allowed);
        }
      }
  CHECK(worst <= 1);
}

TEST_CASE("attention is softmax of q k plus bias times v, for random shapes, strides, masks and types") {
  ThreadPool one(1), four(4);
  for (const Microkernels& kernels : all_kernels())
    for (int i = 0; i < 120; ++i) {
      Case c;
      AttentionShape& s = c.shape;
      int64_t heads[] = {40, 64, 80, 1, 17, 33, 128};
      s.b = pick(1, 2), s.heads = pick(1, 3), s.d = heads[pick(0, 6)];
      s.queries = pick(0, 2) ? pick(1, 60) : pick(100, 300), s.keys = pick(0, 2) ? pick(1, 90) : pick(200, 600);
      s.scale = 1 / std::sqrt(float(s.d));
      s.causal = pick(0, 3) == 0;
      DType types[] = {DType::f32, DType::bf16, DType::f16};
      s.in = types[pick(0, 2)], s.out = types[pick(0, 1)];
      c.bias_dims = pick(0, 1) ? int(pick(0, 15)) : 0;
      c.masked = pick(0, 1);
      check_attention(c, kernels, pick(0, 1) ? one : four);
    }
}

TEST_CASE("attention works for the wide single head of a decoder and the 77 keys of a prompt") {
  ThreadPool four(4);
  for (const Microkernels& kernels : all_kernels()) {
    check_attention({{.heads = 1, .queries = 200, .keys = 300, .d = 512, .scale = 0.044f}}, kernels, four);
    check_attention({{.b = 2, .heads = 8, .queries = 100, .keys = 77, .d = 160, .scale = 0.08f}}, kernels, four);
    DType bf16 = DType::bf16;
    check_attention({{.queries = 200, .keys = 300, .d = 512, .scale = 0.044f, .in = bf16, .out = bf16}}, kernels, four);
    for (int64_t d : {40, 64, 80, 128, 160})
      check_attention({{.b = 2, .heads = 8, .queries = 77, .keys = 77, .d = d, .scale = 0.1f, .in = bf16}}, kernels, four);
  }
}

TEST_CASE("a scale of 0 or below works, where the largest score is not the largest product") {
  ThreadPool one(1);
  for (const Microkernels& kernels : all_kernels())
    for (float scale : {-0.3f, 0.f})
      for (DType in : {DType::f32, DType::bf16})
        check_attention({{.queries = 40, .keys = 150, .d = 24, .scale = scale, .causal = scale < 0, .in = in}}, kernels, one);
}

TEST_CASE("large scores do not overflow, and a NaN in one query stays in its row") {
  ThreadPool one(1);
  for (const Microkernels& kernels : all_kernels())
    for (DType type : {DType::f32, DType::bf16}) {
      AttentionShape s{.queries = 30, .keys = 300, .d = 16, .in = type};
      auto q = normal(30 * 16), k = normal(300 * 16), v = normal(300 * 16);
      for (float& x : q) x *= 1e4f;
      q[5 * 16 + 3] = NAN;
      Stored sq(q, type), sk(k, type), sv(v, type);
      std::vector<float> out(30 * 16);
      Buffer workspace(attention_workspace_bytes(s, 1, kernels));
      attention({.shape = s,
                 .q = sq.data(),
                 .k = sk.data(),
                 .v = sv.data(),
                 .q_strides = {0, 16, 0},
                 .k_strides = {0, 16, 0},
                 .v_strides = {0, 16, 0},
                 .out = out.data(),
                 .out_strides = {0, 16, 0},
                 .workspace = workspace.get()},
                kernels, one);
      for (size_t i = 0; i < out.size(); ++i) CHECK(std::isnan(out[i]) == (i / 16 == 5));
    }
}

TEST_CASE("exp2 is within two units in the last place from -126 to 126, and NaN stays NaN") {
  for (const Microkernels& kernels : all_kernels()) {
    std::vector<float> x(1 << 20), y(1 << 20);
    for (size_t i = 0; i < x.size(); ++i) x[i] = -126 + float(i) * (252.f / float(x.size()));
    vector_kernels(kernels.vector_floats).exp2(x.data(), y.data(), int64_t(x.size()));
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      double exact = std::exp2(double(x[i])), unit = std::ldexp(1.0, std::ilogb(exact) - 23);
      worst = std::max(worst, std::abs(y[i] - exact) / unit);
    }
    CHECK(worst < 2);
    float special[16] = {NAN, -kInf, -127, 0, 1}, result[16];
    vector_kernels(kernels.vector_floats).exp2(special, result, 16);
    CHECK(std::isnan(result[0]));
    CHECK((result[1] == 0 && result[3] == 1 && result[4] == 2));
    CHECK((result[2] >= 0 && result[2] <= 0x1p-126f));
  }
}

TEST_CASE("attention refuses heads that are too wide, in words") {
  ThreadPool one(1);
  CHECK_THROWS_WITH(attention({.shape = {.queries = 1, .keys = 1, .d = 1025}}, Microkernels(), one),
                    "attention: heads of 1025 channels; 1 to 1024 are supported");
}

}  // namespace
}  // namespace sinter
