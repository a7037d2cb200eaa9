// Matrix products, attention and convolutions of the CUDA backend: the library's first choice and the fastest of its best, in
// TFLOP/s and as a share of the rate of one large product measured in the same run.
//   cuda_calls_bench [--device N] [--quick] [words that a row's name must contain]
// Times are of short bursts (each call repeated in a captured graph, the best of four): a card that is busy for seconds is
// slower. All data are random.
#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "backends/cuda/calls/attention.h"
#include "backends/cuda/calls/conv.h"
#include "backends/cuda/calls/linear.h"
#include "backends/cuda/calls/own_conv.h"
#include "backends/cuda/calls/shortcut.h"
#include "backends/cuda/calls/tuning.h"
#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/kernels/group_norm.h"
#include "backends/cuda/kernels/split_product.h"
#include "backends/cuda/kernels/thin_conv.h"
#include "backends/cuda/kernels/tile_product.h"
#include "backends/cuda/kernels/tile_taps.h"
#include "backends/cuda/kernels/tile_window.h"
#include "base/error.h"

using namespace sinter;
using namespace sinter::cuda;

namespace {

struct Bench {
  Context context;
  Stream stream{context};
  Cache cache{CacheOptions{.memory_only = true}};
  Vendor vendor{context, &cache};
  DeviceMemory workspace_memory{context, int64_t(1) << 30, "workspace"};
  Workspace workspace{workspace_memory.address(), workspace_memory.bytes()};
  std::string filter;
  bool quick = false;
  double large_rate = 0;  // TFLOP/s

  explicit Bench(int device) : context(device) {}
  bool wanted(const std::string& name) const { return name.find(filter) != std::string::npos; }

  /// Random numbers of a type; one block of them again and again.
  DeviceMemory random(int64_t count, DType type) {
    constexpr int64_t kBlock = 1 << 20;
    static std::mt19937 bits(3);
    std::normal_distribution<float> normal(0, 0.5f);
    std::vector<float> values(static_cast<size_t>(std::min(count, kBlock)));
    for (float& v : values) v = normal(bits);
    std::vector<char> stored(values.size() * size_t(byte_size(type)));
    convert(values.data(), DType::f32, stored.data(), type, int64_t(values.size()));
    DeviceMemory memory(context, count * byte_size(type), "data");
    for (int64_t at = 0; at < memory.bytes(); at += int64_t(stored.size()))
      copy_to_device(memory.address() + DevicePtr(at), stored.data(),
                     std::min<int64_t>(int64_t(stored.size()), memory.bytes() - at), stream);
    stream.synchronize();
    return memory;
  }
};

struct Row {
  double first = 0, best = 0;  // microseconds
  int candidates = 0;
  int64_t workspace = 0;
};

void print_head(const char* what) {
  fmt::print("\n{:<46}{:>10}{:>10}{:>10}{:>8}{:>7}{:>10}\n", what, "first us", "best us", "TFLOP/s", "share", "timed",
             "space MB");
}

void print_row(const Bench& b, const std::string& name, double flops, const Row& row) {
  double rate = flops / row.best * 1e-6;
  fmt::print("{:<46}{:>10.1f}{:>10.1f}{:>10.1f}{:>8.2f}{:>7}{:>10.1f}\n", name, row.first, row.best, rate,
             b.large_rate > 0 ? rate / b.large_rate : 1.0, row.candidates, double(row.workspace) / 1e6);
  std::fflush(stdout);
}

/// A row that fails costs that row.
void guarded(const std::string& label, const std::function<void()>& row) {
  try {
    row();
  } catch (const Error& e) {
    fmt::print("{:<46}failed: {}\n", label, e.message());
  }
}

void print_absence(const std::string& name, const std::string& why) { fmt::print("{:<46}{}\n", name, why); }

/// Times the library's first plan and its best side by side.
template <class Plan>
Row compare(Bench& b, const Plan& first, const Plan& best, const auto& buffers) {
  auto first_call = first->bind(buffers, b.workspace), best_call = best->bind(buffers, b.workspace);
  std::vector<double> times =
      time_candidates(b.context, b.stream, {[&] { first_call->launch(b.stream); }, [&] { best_call->launch(b.stream); }});
  return {times[0], times[1], best->choice().candidates, best->workspace_bytes()};
}

Row time_linear(Bench& b, const LinearShape& s, std::string& why) {
  DeviceMemory a = b.random(s.batch * s.m * s.k, s.a), w = b.random(s.batch * s.n * s.k, s.weights),
               out = b.random(s.batch * s.m * s.n, s.out), bias = b.random(s.n, s.bias()),
               residual = b.random(s.batch * s.m * s.n, s.out), a_scale = b.random(s.m, DType::f32),
               w_scale = b.random(s.n, DType::f32);
  LinearBuffers buffers{.a = a.address(),
                        .weights = w.address(),
                        .out = out.address(),
                        .bias = bias.address(),
                        .residual = residual.address(),
                        .a_scale = a_scale.address(),
                        .weights_scale = w_scale.address()};
  auto first = plan_linear(b.vendor, s);
  TuneOn<LinearBuffers> on{b.stream, buffers, b.workspace};
  auto best = plan_linear(b.vendor, s, &on);
  why = best ? first.why_none : best.why_none;
  return first && best ? compare(b, first, best, buffers) : Row{};
}

void linear_row(Bench& b, const std::string& name, const LinearShape& s) {
  std::string label = fmt::format("{} {}x{}x{}", name, s.m, s.n, s.k), why;
  if (!b.wanted(label)) return;
  guarded(label, [&] {
    Row row = time_linear(b, s, why);
    why.empty() ? print_row(b, label, s.flops(), row) : print_absence(label, why);
  });
}

// Own products against the library's fastest of eight, each with the same epilogue; where it has none (GEGLU), the library's
// product and a kernel that gates it. All take turns, so that they see the same clock. "waits": the fastest form of ours,
// launched to begin when what is in front has ended, as the library's kernels are. Then what each adds to a group norm in front
// of it that makes its `a`.

struct Tiled {
  const char* name;
  int64_t m, n, k;  ///< n: columns of the result
  bool gelu = false, residual = false, gated = false;
};

/// Sends kernels to a stream, none of which begins early.
class WaitingStream : public KernelTarget {
 public:
  WaitingStream(Kernels& kernels, const Stream& stream) : kernels_(kernels), stream_(stream) {}
  void launch(std::string_view kernel, const LaunchShape& shape, std::span<void* const> arguments) override {
    kernels_.function(kernel).launch(shape, stream_, arguments);
  }
  int multiprocessors() const override { return kernels_.context().device().multiprocessors; }

 private:
  Kernels& kernels_;
  const Stream& stream_;
};

struct TiledData {
  DeviceMemory x, a, weights, wide, out, bias, residual;

  TiledData(Bench& b, const Tiled& t)
      : x(b.random(t.m * t.k, DType::bf16)),
        a(b.random(t.m * t.k, DType::bf16)),
        weights(b.random(rows(t) * t.k, DType::bf16)),
        wide(b.random(t.m * rows(t), DType::bf16)),
        out(b.random(t.m * t.n, DType::bf16)),
        bias(b.random(rows(t), DType::bf16)),
        residual(b.random(t.m * t.n, DType::bf16)) {}
  static int64_t rows(const Tiled& t) { return t.gated ? 2 * t.n : t.n; }
};

TileProductCall own_call(const Tiled& t, const TiledData& data) {
  TileProductCall own{.m = t.m, .n = t.n, .k = t.k};
  own.a = data.a.address(), own.weights = data.weights.address(), own.out = data.out.address(), own.bias = data.bias.address();
  own.gelu = t.gelu, own.gated = t.gated, own.early_weights = true;
  if (t.residual) own.residual = data.residual.address();
  return own;
}

using Body = std::function<void()>;

/// Microseconds of a call by itself: among several, those that are far behind are not timed with the same care. Twice, as one
/// alone is timed once.
double time_alone(Bench& b, const Body& body) {
  const std::vector<double> times = time_candidates(b.context, b.stream, {body, body});
  return std::min(times[0], times[1]);
}

GroupNormCall norm_before(DevicePtr from, DevicePtr to, int64_t n, int64_t pixels, int64_t channels) {
  GroupNormCall norm;
  norm.of.x = from, norm.of.type = DType::bf16, norm.of.n = n, norm.of.pixels = pixels, norm.of.channels = channels;
  norm.of.groups = 32;
  norm.out = to;
  return norm;
}

/// What each body adds to a group norm in front of it, in microseconds; empty where there is none of that size.
std::vector<double> behind_a_norm(Bench& b, Kernels& kernels, const GroupNormCall& norm, const std::vector<Body>& bodies) {
  const GroupNormLimits limits = GroupNormLimits::of(kernels);
  if (!group_norm_fits(norm, limits)) return {};
  KernelStream target(kernels, b.stream);
  const Body before = [&] { group_norm(target, norm, limits); };
  const double alone = time_alone(b, before);
  std::vector<double> added;
  for (const Body& body : bodies) added.push_back(time_alone(b, [&] { before(), body(); }) - alone);
  return added;
}

void tile_row(Bench& b, Kernels& kernels, const Tiled& t) {
  const char* epilogue = t.gated ? " geglu" : t.gelu ? " gelu" : t.residual ? " residual" : "";
  std::string label = fmt::format("tile {} {}x{}x{}{}", t.name, t.m, TiledData::rows(t), t.k, epilogue);
  if (!b.wanted(label)) return;
  KernelStream target(kernels, b.stream);
  WaitingStream waiting(kernels, b.stream);
  TiledData data(b, t);
  LinearShape shape{
      .m = t.m, .n = TiledData::rows(t), .k = t.k, .epilogue = t.gelu ? LinearEpilogue::BiasGelu : LinearEpilogue::Bias};
  shape.residual = t.residual;
  LinearBuffers buffers{.a = data.a.address(),
                        .weights = data.weights.address(),
                        .out = t.gated ? data.wide.address() : data.out.address(),
                        .bias = data.bias.address(),
                        .residual = data.residual.address()};
  TuneOn<LinearBuffers> on{b.stream, buffers, b.workspace};
  auto best = plan_linear(b.vendor, shape, &on);
  if (!best) return print_absence(label, best.why_none);
  auto call = best->bind(buffers, b.workspace);
  GateRowsCall gate{.from = data.wide.address(), .rows = t.m, .columns = t.n, .to = data.out.address()};
  const TileProductCall own = own_call(t, data);
  if (const std::string why = why_no_tile_product(own, b.context.device()); !why.empty()) return print_absence(label, why);
  const Body library = [&] {
    call->launch(b.stream);
    if (t.gated) gate_rows(target, gate);
  };
  const double of_library = time_alone(b, library);
  fmt::print("{:<38}{:>8.1f} ", label, of_library);
  double least = 0;
  TileProduct fastest;
  for (int form = 0; form < int(tile_forms().size()); ++form) {
    if (tile_forms()[size_t(form)].gated != t.gated) continue;
    const TileProduct p = tile_product(own, form, target.multiprocessors());
    const double own_time = time_alone(b, [&] { p.launch(target); });
    if (least == 0 || own_time < least) least = own_time, fastest = p;
    fmt::print("{:>13}", fmt::format("{} {:.1f}", tile_forms()[size_t(form)].columns, own_time));
  }
  const Body begins_early = [&] { fastest.launch(target); }, waits = [&] { fastest.launch(waiting); };
  fmt::print("  gain {:.2f} waits {:.1f}", of_library / least, time_alone(b, waits));
  const GroupNormCall norm = norm_before(data.x.address(), data.a.address(), 2, t.m / 2, t.k);
  if (const auto added = behind_a_norm(b, kernels, norm, {library, waits, begins_early}); !added.empty())
    fmt::print("  behind a norm: {:.1f} {:.1f} {:.1f}", added[0], added[1], added[2]);
  fmt::print("  untimed {}\n", tile_forms()[size_t(best_tile_form(own, target.multiprocessors()))].columns);
  std::fflush(stdout);
}

void tiles(Bench& b) {
  Kernels kernels(b.context);
  fmt::print("\n{:<38}{:>8}  own forms; behind a norm: the library's, ours that waits, ours\n", "own products: us", "library");
  auto plain = [&](const char* name, int64_t m, int64_t n, int64_t k) {
    for (bool residual : {false, true}) guarded(name, [&] { tile_row(b, kernels, {name, m, n, k, false, residual}); });
  };
  auto gated = [&](const char* name, int64_t m, int64_t n, int64_t k) {
    guarded(name, [&] { tile_row(b, kernels, {name, m, n, k, false, false, true}); });
  };
  plain("sdxl", 2048, 1280, 1280);
  plain("sdxl", 2048, 1280, 5120);
  plain("sdxl", 2048, 3840, 1280);
  gated("sdxl", 2048, 5120, 1280);
  plain("sdxl", 8192, 640, 640);
  plain("sdxl", 8192, 640, 2560);
  plain("sdxl", 8192, 1920, 640);
  gated("sdxl", 8192, 2560, 640);
  for (auto [m, width] : {std::pair<int64_t, int64_t>{8192, 320}, {2048, 640}, {512, 1280}, {128, 1280}}) {
    plain("sd15", m, width, width);
    plain("sd15", m, 3 * width, width);
    plain("sd15", m, width, 4 * width);
    gated("sd15", m, 4 * width, width);
  }
  plain("as a convolution", 2048, 640, 9 * 640);
  plain("as a convolution", 512, 1280, 9 * 1280);
  plain("flux", 4608, 3072, 3072);
  guarded("flux", [&] { tile_row(b, kernels, {"flux", 4608, 12288, 3072, true}); });
  plain("flux", 4608, 3072, 12288);
  plain("flux", 4608, 9216, 3072);
  plain("cube", 8192, 8192, 8192);
}

void linears(Bench& b) {
  print_head("linear (m n k)");
  std::string why;
  LinearShape large{.m = 8192, .n = 8192, .k = 8192};
  Row row = time_linear(b, large, why);
  if (!why.empty()) return print_absence("8192 cube bf16", why);
  b.large_rate = large.flops() / row.best * 1e-6;
  print_row(b, "8192 cube bf16", large.flops(), row);

  auto bf16 = [&](const char* name, int64_t m, int64_t n, int64_t k, LinearEpilogue e = LinearEpilogue::Bias,
                  bool residual = false) { linear_row(b, name, {.m = m, .n = n, .k = k, .epilogue = e, .residual = residual}); };
  bf16("flux qkv", 4608, 9216, 3072);
  bf16("flux mlp gelu", 4608, 12288, 3072, LinearEpilogue::BiasGelu);
  bf16("flux out", 4608, 3072, 15360);
  bf16("flux proj", 4608, 3072, 3072);
  for (auto compute : {LinearCompute::FP8Tensor, LinearCompute::FP8Vector})
    for (auto [n, k] : {std::pair<int64_t, int64_t>{9216, 3072}, {12288, 3072}, {3072, 15360}})
      linear_row(b, compute == LinearCompute::FP8Tensor ? "flux fp8" : "flux fp8 vectors",
                 {.m = 4608,
                  .n = n,
                  .k = k,
                  .a = DType::f8e4m3,
                  .weights = DType::f8e4m3,
                  .epilogue = LinearEpilogue::Bias,
                  .compute = compute});
  bf16("sdxl qkv", 8192, 1920, 640, LinearEpilogue::None);
  bf16("sdxl proj + residual", 8192, 640, 640, LinearEpilogue::Bias, true);
  bf16("sdxl geglu", 8192, 5120, 640);
  bf16("sdxl mlp out + residual", 8192, 640, 2560, LinearEpilogue::Bias, true);
  bf16("sdxl qkv", 2048, 3840, 1280, LinearEpilogue::None);
  bf16("sdxl proj + residual", 2048, 1280, 1280, LinearEpilogue::Bias, true);
  bf16("sdxl geglu", 2048, 10240, 1280);
  bf16("sdxl mlp out + residual", 2048, 1280, 5120, LinearEpilogue::Bias, true);
  bf16("sdxl text k v", 154, 2560, 2048, LinearEpilogue::None);
  bf16("sdxl time", 2, 1280, 1280);
  bf16("sd15 qkv", 8192, 960, 320, LinearEpilogue::None);
  bf16("sd15 geglu", 8192, 2560, 320);
  bf16("sd15 mlp out + residual", 8192, 320, 1280, LinearEpilogue::Bias, true);
  bf16("sd15 geglu", 512, 10240, 1280);
  bf16("sd15 proj", 128, 1280, 1280);
  if (b.quick) return;
  auto typed = [&](const char* name, DType type, LinearCompute compute) {
    linear_row(b, name, {.m = 4096, .n = 4096, .k = 4096, .a = type, .weights = type, .out = type, .compute = compute});
  };
  typed("f32", DType::f32, LinearCompute::F32);
  typed("tf32", DType::f32, LinearCompute::TF32);
  typed("f16", DType::f16, LinearCompute::F32);
  typed("f16 sums", DType::f16, LinearCompute::F16Accumulate);
}

AttentionShape dense(int64_t batch, int64_t heads, int64_t queries, int64_t keys, int64_t d, DType type = DType::bf16) {
  AttentionShape s{.b = batch, .heads = heads, .queries = queries, .keys = keys, .d = d, .type = type};
  s.q = s.out = {queries * heads * d, heads * d, d};
  s.k = s.v = {keys * heads * d, heads * d, d};
  return s;
}

void attention_row(Bench& b, const std::string& name, const AttentionShape& s) {
  std::string label = fmt::format("{} {}x{} {}x{} d{}", name, s.b, s.heads, s.queries, s.keys, s.d);
  if (!b.wanted(label)) return;
  DeviceMemory q = b.random(s.b * s.q.b, s.type), k = b.random(s.b * s.k.b, s.type), v = b.random(s.b * s.v.b, s.type),
               out = b.random(s.b * s.out.b, s.type), bias = b.random(s.queries * s.keys, s.bias ? s.bias->type : s.type);
  AttentionBuffers buffers{
      .q = q.address(), .k = k.address(), .v = v.address(), .out = out.address(), .bias = bias.address(), .scale = 0.1f};
  auto first = plan_attention(b.vendor, s);
  TuneOn<AttentionBuffers> on{b.stream, buffers, b.workspace};
  auto best = plan_attention(b.vendor, s, &on);
  if (!best) return print_absence(label, best.why_none);
  guarded(label, [&] { print_row(b, label, s.flops(), compare(b, first, best, buffers)); });
}

void fp8_attention_row(Bench& b, const AttentionShape& s) {
  std::string label = fmt::format("fp8 {}x{} {}x{} d{}", s.b, s.heads, s.queries, s.keys, s.d);
  if (!b.wanted(label)) return;
  DeviceMemory q = b.random(s.b * s.q.b, s.type), k = b.random(s.b * s.k.b, s.type), v = b.random(s.b * s.v.b, s.type),
               out = b.random(s.b * s.out.b, s.type), factors = b.random(64, DType::f32);
  DevicePtr f = factors.address();
  Fp8AttentionBuffers buffers{q.address(), k.address(), v.address(), out.address(), f,       f + 16, f + 32,
                              f + 48,      f + 64,      f + 80,      f + 96,        f + 112, 0.1f};
  auto first = plan_fp8_attention(b.vendor, s);
  TuneOn<Fp8AttentionBuffers> on{b.stream, buffers, b.workspace};
  auto best = plan_fp8_attention(b.vendor, s, &on);
  if (!best) return print_absence(label, best.why_none);
  guarded(label, [&] { print_row(b, label, s.flops(), compare(b, first, best, buffers)); });
}

void attentions(Bench& b) {
  print_head("attention (batch x heads, queries x keys)");
  attention_row(b, "flux", dense(1, 24, 4608, 4608, 128));
  fp8_attention_row(b, dense(1, 24, 4608, 4608, 128, DType::f8e4m3));
  attention_row(b, "sdxl", dense(2, 10, 4096, 4096, 64));
  attention_row(b, "sdxl", dense(2, 20, 1024, 1024, 64));
  fp8_attention_row(b, dense(2, 10, 4096, 4096, 64, DType::f8e4m3));
  fp8_attention_row(b, dense(2, 20, 1024, 1024, 64, DType::f8e4m3));
  attention_row(b, "sdxl text", dense(2, 10, 4096, 77, 64));
  attention_row(b, "sdxl text", dense(2, 20, 1024, 77, 64));
  attention_row(b, "sd15", dense(2, 8, 4096, 4096, 40));
  attention_row(b, "sd15", dense(2, 8, 1024, 1024, 80));
  attention_row(b, "sd15", dense(2, 8, 256, 256, 160));
  attention_row(b, "sd15 text", dense(2, 8, 4096, 77, 40));
  AttentionShape clip = dense(2, 12, 77, 77, 64);
  clip.causal = true;
  attention_row(b, "clip causal", clip);
  if (b.quick) return;
  attention_row(b, "vae", dense(1, 1, 16384, 16384, 512));
  AttentionShape t5 = dense(1, 64, 512, 512, 64);
  t5.bias = AttentionBias{DType::f32, {0, 512, 0}};
  attention_row(b, "t5 bias", t5);
}

// Attention to a prompt by our kernels against cuDNN's fastest. Each follows the product that makes its queries, as in a model,
// whose time is taken off. All take turns, so that they see the same clock.

/// A plan of each of these kernels of ours that makes it.
std::vector<std::pair<OwnAttention, AttentionPlan>> own_plans(Bench& b, Kernels& kernels, const AttentionShape& s,
                                                              std::initializer_list<OwnAttention> of) {
  std::vector<std::pair<OwnAttention, AttentionPlan>> plans;
  for (OwnAttention own : of)
    if (why_no_own_attention(s, own, b.context.device()).empty()) plans.emplace_back(own, AttentionPlan(s, own, kernels, {}));
  return plans;
}

const char* name_of(OwnAttention own) { return std::array{"resident", "tiles", "few"}.at(size_t(own)); }

void prompt_row(Bench& b, Kernels& kernels, const std::string& name, const AttentionShape& s) {
  std::string label = fmt::format("prompt {} {}x{} {}x{} d{}", name, s.b, s.heads, s.queries, s.keys, s.d);
  if (!b.wanted(label)) return;
  const int64_t rows = s.b * s.queries, width = s.heads * s.d;
  DeviceMemory x = b.random(rows * width, s.type), w = b.random(width * width, s.type), q = b.random(rows * width, s.type),
               k = b.random(s.b * s.k.b, s.type), v = b.random(s.b * s.v.b, s.type), out = b.random(rows * width, s.type);
  AttentionBuffers buffers{.q = q.address(), .k = k.address(), .v = v.address(), .out = out.address(), .scale = 0.1f};
  LinearShape product{.m = rows, .n = width, .k = width, .a = s.type, .weights = s.type, .out = s.type};
  LinearBuffers factors{.a = x.address(), .weights = w.address(), .out = q.address()};
  TuneOn<AttentionBuffers> on{b.stream, buffers, b.workspace};
  TuneOn<LinearBuffers> on_factors{b.stream, factors, b.workspace};
  auto theirs = plan_attention(b.vendor, s, &on);
  auto before = plan_linear(b.vendor, product, &on_factors);
  const auto ours = own_plans(b, kernels, s, {OwnAttention::Resident, OwnAttention::Tiles, OwnAttention::FewTiles});
  if (!theirs || !before || ours.empty()) return print_absence(label, theirs.why_none + before.why_none);
  auto queries = before->bind(factors, b.workspace);
  std::vector<std::unique_ptr<BoundCall>> calls;
  calls.push_back(theirs->bind(buffers, b.workspace));
  for (const auto& [own, plan] : ours) calls.push_back(plan.bind(buffers, b.workspace));
  std::vector<std::function<void()>> candidates = {[&] { queries->launch(b.stream); }};
  for (const auto& call : calls) {
    candidates.push_back([&] { queries->launch(b.stream), call->launch(b.stream); });
    candidates.push_back([&] { call->launch(b.stream); });
  }
  const std::vector<double> times = time_candidates(b.context, b.stream, candidates);
  const double cudnn = times[1] - times[0];
  fmt::print("{:<46}{:>10.1f}{:>10.1f} ({:.1f})", label, times[0], cudnn, times[2]);
  for (size_t i = 0; i < ours.size(); ++i) {
    const double own = times[3 + 2 * i] - times[0];
    fmt::print("  {} {:.1f} ({:.1f}) {:.2f}", name_of(ours[i].first), own, times[4 + 2 * i], cudnn / own);
  }
  fmt::print("\n");
  std::fflush(stdout);
}

void prompts(Bench& b) {
  Kernels kernels(b.context);
  fmt::print("\n{:<46}{:>10}{:>10}  each of ours\n", "attention to a prompt: us (alone), gain", "product", "cuDNN");
  for (int64_t keys : {77, 154, 231}) {
    prompt_row(b, kernels, "sdxl", dense(2, 10, 4096, keys, 64));
    prompt_row(b, kernels, "sdxl", dense(2, 20, 1024, keys, 64));
    prompt_row(b, kernels, "sd15", dense(2, 8, 4096, keys, 40));
    prompt_row(b, kernels, "sd15", dense(2, 8, 1024, keys, 80));
    prompt_row(b, kernels, "sd15", dense(2, 8, 256, keys, 160));
    prompt_row(b, kernels, "sd15", dense(2, 8, 64, keys, 160));
  }
}

// Attention of tokens to each other by our kernels against cuDNN's fastest, in turns.

void self_row(Bench& b, Kernels& kernels, const std::string& name, const AttentionShape& s) {
  std::string label = fmt::format("self {} {}x{} {} d{} {}", name, s.b, s.heads, s.queries, s.d, sinter::name(s.type));
  if (!b.wanted(label)) return;
  const int64_t width = s.heads * s.d;
  DeviceMemory qkv = b.random(s.b * s.q.b, s.type), out = b.random(s.b * s.out.b, s.type);
  AttentionBuffers buffers{.q = qkv.address(), .out = out.address(), .scale = 0.5f};
  buffers.k = buffers.q + DevicePtr(width * byte_size(s.type)), buffers.v = buffers.k + DevicePtr(width * byte_size(s.type));
  TuneOn<AttentionBuffers> on{b.stream, buffers, b.workspace};
  auto theirs = plan_attention(b.vendor, s, &on);
  const auto ours = own_plans(b, kernels, s, {OwnAttention::Tiles});
  if (!theirs || ours.empty()) return print_absence(label, theirs.why_none);
  std::vector<std::unique_ptr<BoundCall>> calls;
  calls.push_back(theirs->bind(buffers, b.workspace));
  for (const auto& [own, plan] : ours) calls.push_back(plan.bind(buffers, b.workspace));
  std::vector<std::function<void()>> candidates;
  for (const auto& call : calls) candidates.push_back([&] { call->launch(b.stream); });
  const std::vector<double> times = time_candidates(b.context, b.stream, candidates);
  const double flops = s.flops() * 1e-6;
  fmt::print("{:<46}{:>10.1f}{:>7.0f}", label, times[0], flops / times[0]);
  for (size_t i = 0; i < ours.size(); ++i)
    fmt::print("  {} {:.1f} {:.0f} {:.2f}", name_of(ours[i].first), times[i + 1], flops / times[i + 1], times[0] / times[i + 1]);
  fmt::print("\n");
  std::fflush(stdout);
}

/// Side by side in one tensor, as one product makes them.
AttentionShape fused(int64_t batch, int64_t heads, int64_t tokens, int64_t d, DType type = DType::bf16) {
  AttentionShape s = dense(batch, heads, tokens, tokens, d, type);
  s.q = s.k = s.v = {3 * tokens * heads * d, 3 * heads * d, d};
  return s;
}

void selves(Bench& b) {
  Kernels kernels(b.context);
  fmt::print("\n{:<46}{:>17}  each of ours\n", "attention among tokens: us, TFLOP/s, gain", "cuDNN");
  for (DType type : {DType::bf16, DType::f16}) {
    self_row(b, kernels, "sd15", fused(2, 8, 4096, 40, type));
    self_row(b, kernels, "sd15", fused(2, 8, 1024, 80, type));
    self_row(b, kernels, "sd15", fused(2, 8, 256, 160, type));
    self_row(b, kernels, "sdxl", fused(2, 10, 4096, 64, type));
    self_row(b, kernels, "sdxl", fused(2, 20, 1024, 64, type));
    self_row(b, kernels, "flux", fused(1, 24, 4608, 128, type));
    if (b.quick) return;
  }
  self_row(b, kernels, "sd15 768", fused(2, 8, 9216, 40));
  self_row(b, kernels, "sd15 768", fused(2, 8, 576, 160));
  self_row(b, kernels, "sd15 384", fused(2, 8, 576, 80));
  self_row(b, kernels, "sd15 448x576", fused(2, 8, 252, 160));
  self_row(b, kernels, "sdxl 1216x832", fused(2, 20, 988, 64));
  self_row(b, kernels, "sdxl 512", fused(2, 20, 256, 64));
  self_row(b, kernels, "flux 1152x896", fused(1, 24, 4544, 128));
  self_row(b, kernels, "flux 512", fused(1, 24, 1536, 128));
  for (int64_t d : {40, 64, 80, 128, 160}) self_row(b, kernels, "few", fused(2, 8, 170, d));
}

void conv_rows(Bench& b, const std::string& name, ConvShape s) {
  for (bool residual : {false, true}) {
    s.residual = residual;
    std::string label = fmt::format("{} {} {}->{} at {}{}{}", name, s.n, s.c, s.out_c, s.axes[0].in,
                                    s.axes[0].stride == 2 ? " down" : "", residual ? " + residual" : "");
    if (!b.wanted(label)) continue;
    int64_t in_pixels = s.n, window = 1;
    for (const auto& a : s.axes) {
      in_pixels *= a.in;
      window *= a.kernel;
    }
    DeviceMemory in = b.random(in_pixels * s.c, s.type), weights = b.random(s.out_c * window * s.c, s.type),
                 bias = b.random(s.out_c, s.type), out = b.random(s.out_pixels() * s.out_c, s.type),
                 more = b.random(s.out_pixels() * s.out_c, s.type);
    ConvBuffers buffers{.in = in.address(),
                        .weights = weights.address(),
                        .out = out.address(),
                        .bias = bias.address(),
                        .residual = more.address()};
    auto first = plan_conv(b.vendor, s);
    TuneOn<ConvBuffers> on{b.stream, buffers, b.workspace};
    auto best = plan_conv(b.vendor, s, &on);
    if (!best)
      print_absence(label, best.why_none);
    else
      guarded(label, [&] { print_row(b, label, s.flops(), compare(b, first, best, buffers)); });
  }
}

ConvShape conv(int64_t n, int64_t size, int64_t c, int64_t out_c, DType type = DType::bf16) {
  return {.n = n, .c = c, .out_c = out_c, .axes = {{.in = size}, {.in = size}}, .type = type, .bias = true};
}

void convs(Bench& b) {
  print_head("convolution 3x3 (batch channels)");
  for (auto [size, c, out_c] : {std::array<int64_t, 3>{128, 320, 320},
                                {64, 640, 640},
                                {32, 1280, 1280},
                                {32, 2560, 1280},
                                {64, 1920, 640},
                                {128, 960, 320},
                                {128, 4, 320},
                                {128, 320, 4}})
    conv_rows(b, "sdxl", conv(2, size, c, out_c));
  for (auto [size, c, out_c] :
       {std::array<int64_t, 3>{64, 320, 320}, {32, 640, 640}, {16, 1280, 1280}, {8, 1280, 1280}, {16, 2560, 1280}})
    conv_rows(b, "sd15", conv(2, size, c, out_c));
  for (auto [size, c, out_c] : {std::array<int64_t, 3>{128, 512, 512},
                                {256, 512, 512},
                                {512, 512, 256},
                                {512, 256, 256},
                                {1024, 256, 128},
                                {1024, 128, 128},
                                {1024, 128, 3}})
    conv_rows(b, "vae", conv(1, size, c, out_c));
  if (b.quick) return;
  ConvShape f32 = conv(1, 128, 512, 512, DType::f32);
  conv_rows(b, "vae f32", f32);
  f32.allow_tf32 = true;
  conv_rows(b, "vae tf32", f32);
}

// Own convolutions against cuDNN's fastest of eight, which has no residual, nor a bias where results are of twice the size: a
// pass follows it, whose time is what was measured of such passes: 1.5 us, and three times the result, or twice, at 4.2 TB/s. Two
// at a time take turns.

std::string size_text(int64_t height, int64_t width) {
  return height == width ? std::to_string(height) : fmt::format("{}x{}", height, width);
}

void window_row(Bench& b, Kernels& kernels, const char* name, const ConvShape& s) {
  const ConvAxis &axis = s.axes[0], &across = s.axes[1];
  const char* change = s.doubles ? " doubled" : axis.stride == 2 ? " down" : "";
  const std::string label =
      fmt::format("window {} {}x{}->{} at {}{}", name, s.n, s.c, s.out_c, size_text(axis.in, across.in), change);
  if (!b.wanted(label)) return;
  KernelStream target(kernels, b.stream);
  DeviceMemory in = b.random(s.n * axis.in * across.in * s.c, s.type),
               weights = b.random(s.out_c * axis.kernel * axis.kernel * s.c, s.type), bias = b.random(s.out_c, s.type),
               out = b.random(s.out_pixels() * s.out_c, s.type), more = b.random(s.out_pixels() * s.out_c, s.type);
  ConvBuffers buffers{.in = in.address(), .weights = weights.address(), .out = out.address(), .bias = bias.address()};
  TuneOn<ConvBuffers> on{b.stream, buffers, b.workspace};
  auto best = plan_conv(b.vendor, s, &on);
  if (!best) return print_absence(label, best.why_none);
  auto call = best->bind(buffers, b.workspace);
  TileWindowCall own{.n = s.n, .h = axis.in, .w = across.in, .c = s.c, .out_c = s.out_c};
  own.type = s.type, own.doubles = s.doubles;
  if (!s.doubles) own.stride = axis.stride;
  own.in = in.address(), own.filters = weights.address(), own.out = out.address(), own.bias = bias.address();
  if (const std::string why = why_no_tile_window(own, b.context.device()); !why.empty()) return print_absence(label, why);
  std::vector<std::function<void()>> candidates = {[&] { call->launch(b.stream); }};
  for (DevicePtr residual : {DevicePtr(0), more.address()}) {
    own.residual = residual;
    for (int form : tile_window_forms(s.doubles))
      candidates.push_back([&, made = tile_window(own, form, target.multiprocessors())] { made.launch(target); });
    if (!why_no_tile_taps(own, b.context.device()).empty()) continue;
    for (int form : tile_taps_forms())
      candidates.push_back([&, made = tile_taps(own, form, target.multiprocessors())] { made.launch(target); });
  }
  // Against the best of a round the others are timed no further: so in pairs.
  std::vector<double> times(candidates.size()), library;
  for (size_t i = 1; i < candidates.size(); ++i) {
    const auto pair = time_candidates(b.context, b.stream, {candidates[0], candidates[i]});
    library.push_back(pair[0]);
    times[i] = pair[1];
  }
  times[0] = *std::min_element(library.begin(), library.end());
  const double flops = s.flops() * 1e-6;
  fmt::print("{:<40}", label);
  for (double time : times) fmt::print("{:>8.1f}{:>5.0f}", time, flops / time);
  const size_t forms = candidates.size() / 2, columns = 2 * (window_forms().size() + tile_taps_forms().size());
  fmt::print("{:>{}}", "", 13 * (columns - 2 * forms));  // to twice the size there is one form
  auto pass = [&](int tensors) { return 1.5 + tensors * double(s.out_pixels() * s.out_c * byte_size(s.type)) / 4.2e6; };
  auto least = [&](size_t begin) {
    return *std::min_element(times.begin() + int64_t(begin), times.begin() + int64_t(begin + forms));
  };
  fmt::print("{:>7.2f}{:>7.2f}{:>7.2f}\n", (times[0] + (s.doubles ? pass(2) : 0)) / least(1),
             (times[0] + pass(3)) / least(1 + forms),
             tile_share(own, best_tile_form(own, target.multiprocessors()), target.multiprocessors()));
  std::fflush(stdout);
}

void windows(Bench& b) {
  Kernels kernels(b.context);
  fmt::print("\n{:<40}{:>13}", "own convolutions: us and TFLOP/s", "cuDNN");
  for (const char* residual : {"", "+r"}) {
    for (const device::WindowForm& f : window_forms()) fmt::print("{:>13}", fmt::format("own {}{}", f.columns, residual));
    for (int form : tile_taps_forms())
      fmt::print("{:>13}", fmt::format("taps {}{}", tile_forms()[size_t(form)].columns, residual));
  }
  fmt::print("{:>7}{:>7}{:>7}\n", "gain", "gain+r", "share");
  struct Size {
    const char* name;
    int64_t n, size, c, out_c, stride = 1;
    bool doubles = false;
    int64_t width = 0;  // 0: the same
  };
  for (const Size& s : std::initializer_list<Size>{{"sd15", 2, 64, 320, 320},
                                                   {"sd15", 2, 64, 640, 320},
                                                   {"sd15", 2, 64, 960, 320},
                                                   {"sd15", 2, 32, 320, 640},
                                                   {"sd15", 2, 32, 640, 640},
                                                   {"sd15", 2, 32, 960, 640},
                                                   {"sd15", 2, 32, 1280, 640},
                                                   {"sd15", 2, 32, 1920, 640},
                                                   {"sd15", 2, 16, 640, 1280},
                                                   {"sd15", 2, 16, 1280, 1280},
                                                   {"sd15", 2, 16, 1920, 1280},
                                                   {"sd15", 2, 16, 2560, 1280},
                                                   {"sd15", 2, 8, 1280, 1280},
                                                   {"sd15", 2, 8, 2560, 1280},
                                                   {"sd15", 2, 64, 320, 320, 2},
                                                   {"sd15", 2, 32, 640, 640, 2},
                                                   {"sd15", 2, 16, 1280, 1280, 2},
                                                   {"sdxl", 2, 128, 320, 320},
                                                   {"sdxl", 2, 128, 640, 320},
                                                   {"sdxl", 2, 128, 960, 320},
                                                   {"sdxl", 2, 64, 320, 640},
                                                   {"sdxl", 2, 64, 640, 640},
                                                   {"sdxl", 2, 64, 960, 640},
                                                   {"sdxl", 2, 64, 1280, 640},
                                                   {"sdxl", 2, 64, 1920, 640},
                                                   {"sdxl", 2, 32, 640, 1280},
                                                   {"sdxl", 2, 32, 1280, 1280},
                                                   {"sdxl", 2, 32, 1920, 1280},
                                                   {"sdxl", 2, 32, 2560, 1280},
                                                   {"sdxl", 2, 128, 320, 320, 2},
                                                   {"sdxl", 2, 64, 640, 640, 2},
                                                   {"vae", 1, 128, 512, 512},
                                                   {"vae", 1, 256, 512, 512},
                                                   {"vae", 1, 512, 512, 256},
                                                   {"vae", 1, 512, 256, 256},
                                                   {"vae", 1, 1024, 256, 128},
                                                   {"vae", 1, 1024, 128, 128},
                                                   {"sd15", 2, 8, 1280, 1280, 2, true},
                                                   {"sd15", 2, 16, 1280, 1280, 2, true},
                                                   {"sd15", 2, 32, 640, 640, 2, true},
                                                   {"sdxl", 2, 32, 1280, 1280, 2, true},
                                                   {"sdxl", 2, 64, 640, 640, 2, true},
                                                   {"vae", 1, 128, 512, 512, 2, true},
                                                   {"vae", 1, 256, 512, 512, 2, true},
                                                   {"vae", 1, 512, 256, 256, 2, true},
                                                   {"wide", 2, 28, 640, 1280, 1, false, 36},
                                                   {"wide", 2, 28, 1280, 1280, 1, false, 36},
                                                   {"wide", 2, 28, 1920, 1280, 1, false, 36},
                                                   {"wide", 2, 28, 2560, 1280, 1, false, 36},
                                                   {"wide", 2, 28, 1920, 640, 1, false, 36},
                                                   {"wide", 2, 26, 1280, 1280, 1, false, 38},
                                                   {"wide", 2, 52, 640, 640, 1, false, 76},
                                                   {"wide", 2, 26, 1280, 1280, 1, false, 34},
                                                   {"odd", 2, 56, 320, 320, 2, false, 72},
                                                   {"odd", 2, 56, 640, 640, 2, false, 72},
                                                   {"odd", 2, 28, 320, 640, 1, false, 36},
                                                   {"odd", 2, 28, 640, 640, 1, false, 36},
                                                   {"odd", 2, 28, 1280, 640, 1, false, 36},
                                                   {"odd", 2, 28, 640, 640, 2, false, 36},
                                                   {"odd", 2, 14, 640, 1280, 1, false, 18},
                                                   {"odd", 2, 14, 1280, 1280, 1, false, 18},
                                                   {"odd", 2, 14, 2560, 1280, 1, false, 18},
                                                   {"odd", 2, 14, 1280, 1280, 2, false, 18},
                                                   {"odd", 2, 7, 1280, 1280, 1, false, 9},
                                                   {"odd", 2, 7, 2560, 1280, 1, false, 9},
                                                   {"odd", 2, 7, 1280, 1280, 2, true, 9},
                                                   {"odd", 2, 14, 1280, 1280, 2, true, 18},
                                                   {"odd", 2, 28, 640, 640, 2, true, 36},
                                                   {"odd", 2, 28, 1280, 1280, 2, true, 36}}) {
    const ConvAxis axis{.in = s.size, .kernel = s.doubles ? 4 : 3, .stride = s.stride};
    ConvAxis across = axis;
    if (s.width) across.in = s.width;
    ConvShape shape{.n = s.n, .c = s.c, .out_c = s.out_c, .axes = {axis, across}};
    shape.doubles = s.doubles, shape.bias = !s.doubles;
    guarded(s.name, [&] { window_row(b, kernels, s.name, shape); });
  }
}

// Products and convolutions of few rows, split along k, against the library's fastest of eight. Weights change from launch to
// launch, so that they come from memory as in a model, where their neighbours' take turns in the second cache. Then what the
// library's and our fastest add to a group norm in front that makes their input.

/// Calls with the same sizes and other weights, launched in turns.
class InTurns {
 public:
  void add(Body body) { bodies_.push_back(std::move(body)); }
  void operator()() { bodies_[next_++ % bodies_.size()](); }

 private:
  std::vector<Body> bodies_;
  size_t next_ = 0;
};

/// What lies in the second cache is at most 50 MB.
constexpr int64_t kBeyondCaches = 150'000'000;
int64_t copies_of(int64_t weight_bytes) { return std::clamp<int64_t>(kBeyondCaches / weight_bytes, 2, 48); }

void split_row(Bench& b, Kernels& kernels, const std::string& label, const GroupNormCall& norm, InTurns& library,
               const std::vector<int>& forms, const std::function<void(int form, InTurns& ours)>& make) {
  const Body their_body = [&] { library(); };
  const double theirs = time_alone(b, their_body);
  fmt::print("{:<36}{:>7.1f} ", label, theirs);
  double least = 0;
  InTurns fastest;
  for (int form : forms) {
    InTurns ours;
    make(form, ours);
    const double time = time_alone(b, [&] { ours(); });
    if (least == 0 || time < least) least = time, fastest = ours;
    const SplitForm& f = split_forms()[size_t(form)];
    fmt::print("{:>15}", fmt::format("{}:{}x{} {:.1f}", f.columns, f.rows, f.parts, time));
  }
  fmt::print("  gain {:.2f}", theirs / least);
  const Body our_body = [&] { fastest(); };
  if (const auto added = behind_a_norm(b, kernels, norm, {their_body, our_body}); !added.empty())
    fmt::print("  behind a norm {:.1f} {:.1f}", added[0], added[1]);
  fmt::print("\n");
  std::fflush(stdout);
}

void split_product_row(Bench& b, Kernels& kernels, int64_t m, int64_t n, int64_t k) {
  const std::string label = fmt::format("split {}x{}x{}", m, n, k);
  if (!b.wanted(label)) return;
  const int64_t copies = copies_of(n * k * 2);
  DeviceMemory x = b.random(m * k, DType::bf16), a = b.random(m * k, DType::bf16),
               weights = b.random(copies * n * k, DType::bf16), out = b.random(m * n, DType::bf16),
               bias = b.random(n, DType::bf16), residual = b.random(m * n, DType::bf16);
  LinearShape shape{.m = m, .n = n, .k = k, .epilogue = LinearEpilogue::Bias, .residual = true};
  LinearBuffers buffers{.a = a.address(),
                        .weights = weights.address(),
                        .out = out.address(),
                        .bias = bias.address(),
                        .residual = residual.address()};
  TuneOn<LinearBuffers> on{b.stream, buffers, b.workspace};
  auto best = plan_linear(b.vendor, shape, &on);
  if (!best) return print_absence(label, best.why_none);
  auto weights_of = [&](int64_t copy) { return weights.address() + DevicePtr(copy * n * k * 2); };
  InTurns library;
  for (int64_t i = 0; i < copies; ++i) {
    buffers.weights = weights_of(i);
    library.add([&b, call = std::shared_ptr<BoundCall>(best->bind(buffers, b.workspace))] { call->launch(b.stream); });
  }
  TileProductCall call{.m = m, .n = n, .k = k};
  const std::vector<int> forms = split_candidates(call, b.context.device());
  const GroupNormCall norm = norm_before(x.address(), a.address(), 2, m / 2, k);
  split_row(b, kernels, label, norm, library, forms, [&](int form, InTurns& ours) {
    for (int64_t i = 0; i < copies; ++i) {
      call.a = buffers.a, call.weights = weights_of(i), call.out = buffers.out, call.bias = buffers.bias;
      call.residual = buffers.residual, call.early_weights = true;
      ours.add([&b, &kernels, made = split_product(call, form)] {
        KernelStream target(kernels, b.stream);
        made.launch(target);
      });
    }
  });
}

void split_window_row(Bench& b, Kernels& kernels, int64_t height, int64_t width, int64_t c, int64_t out_c, int64_t stride,
                      bool doubles) {
  const char* change = doubles ? " doubled" : stride == 2 ? " down" : "";
  const std::string label = fmt::format("split 2x{}->{} at {}{}", c, out_c, size_text(height, width), change);
  if (!b.wanted(label)) return;
  ConvShape shape = conv(2, height, c, out_c);
  shape.axes[1].in = width;
  for (ConvAxis& axis : shape.axes) axis.kernel = doubles ? 4 : 3, axis.stride = stride;
  shape.doubles = doubles, shape.bias = !doubles;
  const int64_t filters = out_c * shape.axes[0].kernel * shape.axes[1].kernel * c, copies = copies_of(filters * 2),
                in_count = 2 * height * width * c;
  DeviceMemory x = b.random(in_count, DType::bf16), in = b.random(in_count, DType::bf16),
               weights = b.random(copies * filters, DType::bf16), bias = b.random(out_c, DType::bf16),
               out = b.random(shape.out_pixels() * out_c, DType::bf16);
  ConvBuffers buffers{.in = in.address(), .weights = weights.address(), .out = out.address(), .bias = bias.address()};
  TuneOn<ConvBuffers> on{b.stream, buffers, b.workspace};
  auto best = plan_conv(b.vendor, shape, &on);
  if (!best) return print_absence(label, best.why_none);
  auto weights_of = [&](int64_t copy) { return weights.address() + DevicePtr(copy * filters * 2); };
  InTurns library;
  for (int64_t i = 0; i < copies; ++i) {
    buffers.weights = weights_of(i);
    library.add([&b, call = std::shared_ptr<BoundCall>(best->bind(buffers, b.workspace))] { call->launch(b.stream); });
  }
  TileWindowCall call{.n = 2, .h = height, .w = width, .c = c, .out_c = out_c};
  call.stride = doubles ? 1 : stride, call.doubles = doubles;
  const std::vector<int> forms = split_candidates(call, b.context.device());
  const GroupNormCall norm = norm_before(x.address(), in.address(), 2, height * width, c);
  split_row(b, kernels, label, norm, library, forms, [&](int form, InTurns& ours) {
    for (int64_t i = 0; i < copies; ++i) {
      call.in = buffers.in, call.filters = weights_of(i), call.out = buffers.out, call.bias = buffers.bias;
      call.early_weights = true;
      ours.add([&b, &kernels, made = split_product(call, form)] {
        KernelStream target(kernels, b.stream);
        made.launch(target);
      });
    }
  });
}

void splits(Bench& b) {
  Kernels kernels(b.context);
  fmt::print("\n{:<36}{:>7}  columns:rows x parts\n", "split along k: us", "library");
  struct Window {
    int64_t height, width, c, out_c, stride = 1;
    bool doubles = false;
  };
  for (const Window& w : std::initializer_list<Window>{{8, 8, 1280, 1280},
                                                       {8, 8, 2560, 1280},
                                                       {16, 16, 640, 1280},
                                                       {16, 16, 1280, 1280},
                                                       {16, 16, 1920, 1280},
                                                       {16, 16, 2560, 1280},
                                                       {16, 16, 1280, 1280, 2},
                                                       {8, 8, 1280, 1280, 2, true},
                                                       {7, 9, 1280, 1280},
                                                       {7, 9, 2560, 1280},
                                                       {14, 18, 640, 1280},
                                                       {14, 18, 1280, 1280},
                                                       {14, 18, 2560, 1280},
                                                       {14, 18, 1280, 1280, 2},
                                                       {7, 9, 1280, 1280, 2, true}})
    guarded("split", [&] { split_window_row(b, kernels, w.height, w.width, w.c, w.out_c, w.stride, w.doubles); });
  for (int64_t m : {128, 512})
    for (int64_t k : {1280, 2560, 5120}) guarded("split", [&] { split_product_row(b, kernels, m, 1280, k); });
}

// Convolutions with a shortcut as one kernel, in all forms, against the convolution and the linear layer behind it, each the
// fastest of the library's and ours; then what the convolution takes alone, and the whole behind a group norm that makes its
// input. Weights come from memory, as above.

void shortcut_row(Bench& b, Kernels& kernels, int64_t n, int64_t size, int64_t c, int64_t more) {
  const int64_t out_c = c;
  const std::string label = fmt::format("shortcut {}x{}+{}->{} at {}", n, c, more, out_c, size);
  if (!b.wanted(label)) return;
  Vendor vendor(b.context, &b.cache, {}, &kernels);
  const ConvShape shape = conv(n, size, c, out_c);
  const LinearShape linear{.m = shape.out_pixels(), .n = out_c, .k = more, .epilogue = LinearEpilogue::Bias, .residual = true};
  const int64_t filters = out_c * 9 * c, rows = out_c * more, copies = copies_of((filters + rows) * 2);
  auto random = [&](int64_t count) { return b.random(count, DType::bf16); };
  DeviceMemory x = random(linear.m * c), in = random(linear.m * c), other = random(linear.m * more),
               weights = random(copies * filters), more_weights = random(copies * rows), bias = random(out_c),
               between = random(linear.m * out_c), out = random(linear.m * out_c);
  ConvBuffers first{.in = in.address(), .weights = weights.address(), .out = between.address(), .bias = bias.address()};
  LinearBuffers second{.a = other.address(), .weights = more_weights.address(), .out = out.address(), .bias = bias.address()};
  second.residual = between.address(), first.early_weights = second.early_weights = true;
  const TuneOn<ConvBuffers> on{b.stream, first, b.workspace};
  const TuneOn<LinearBuffers> on_second{b.stream, second, b.workspace};
  const auto window = plan_conv(vendor, shape, &on);
  const auto layer = plan_linear(vendor, linear, &on_second);
  if (!window || !layer) return print_absence(label, window.why_none + layer.why_none);
  InTurns apart, alone;
  std::vector<std::pair<ConvBuffers, LinearBuffers>> calls;
  for (int64_t i = 0; i < copies; ++i) {
    first.weights = weights.address() + DevicePtr(i * filters * 2),
    second.weights = more_weights.address() + DevicePtr(i * rows * 2);
    calls.emplace_back(first, second);
    std::shared_ptr<BoundCall> one = window->bind(first, b.workspace), two = layer->bind(second, b.workspace);
    apart.add([&b, one, two] { one->launch(b.stream), two->launch(b.stream); });
    alone.add([&b, one] { one->launch(b.stream); });
  }
  const double both = time_alone(b, [&] { apart(); });
  fmt::print("{:<36}{:>7.1f}{:>7.1f} {}{} ", label, both, time_alone(b, [&] { alone(); }), window->is_own() ? "own" : "lib",
             layer->is_own() ? "+own" : "+lib");
  const ConvShape whole = with_shortcut(shape, linear);
  double least = 0;
  InTurns fastest;
  for (int form : own_conv_forms(whole, b.context.device())) {
    InTurns ours;
    const ConvPlan plan(vendor, whole, form, {});
    for (const auto& [conv, linear] : calls)
      ours.add([&b, call = std::shared_ptr<BoundCall>(plan.bind(with_shortcut(conv, linear), b.workspace))] {
        call->launch(b.stream);
      });
    const double time = time_alone(b, [&] { ours(); });
    if (least == 0 || time < least) least = time, fastest = ours;
    fmt::print("{:>26}", fmt::format("{} {:.1f}", own_conv_name(whole, form), time));
  }
  fmt::print("  gain {:.2f}, {:.0f} TFLOP/s", both / least, whole.flops() * 1e-6 / least);
  const GroupNormCall norm = norm_before(x.address(), in.address(), n, size * size, c);
  if (const auto added = behind_a_norm(b, kernels, norm, {[&] { apart(); }, [&] { fastest(); }}); !added.empty())
    fmt::print("  behind a norm {:.1f} {:.1f}", added[0], added[1]);
  fmt::print("\n");
  std::fflush(stdout);
}

void shortcuts(Bench& b) {
  Kernels kernels(b.context);
  fmt::print("\n{:<36}{:>7}{:>7}\n", "convolutions with a shortcut: us", "apart", "conv");
  for (auto [size, c, more] : {std::array<int64_t, 3>{64, 320, 640},
                               {64, 320, 960},
                               {32, 640, 320},
                               {32, 640, 960},
                               {32, 640, 1280},
                               {32, 640, 1920},
                               {16, 1280, 640},
                               {16, 1280, 1920},
                               {16, 1280, 2560},
                               {8, 1280, 2560},
                               {128, 320, 640},
                               {128, 320, 960},
                               {64, 640, 320},
                               {64, 640, 960},
                               {64, 640, 1280},
                               {64, 640, 1920},
                               {32, 1280, 640},
                               {32, 1280, 1920},
                               {32, 1280, 2560}})
    guarded("shortcut", [&] { shortcut_row(b, kernels, 2, size, c, more); });
  guarded("shortcut", [&] { shortcut_row(b, kernels, 1, 512, 256, 512); });  // of the decoder
  guarded("shortcut", [&] { shortcut_row(b, kernels, 1, 1024, 128, 256); });
}

// Convolutions of few channels by our kernels, as they choose their tiles and with others, against cuDNN's fastest. All take
// turns.

void thin_row(Bench& b, Kernels& kernels, const char* name, int64_t n, int64_t size, int64_t c, int64_t out_c,
              const std::vector<ThinTile>& tiles) {
  const std::string label = fmt::format("thin {} {} {}->{} at {}", name, n, c, out_c, size);
  if (!b.wanted(label)) return;
  KernelStream target(kernels, b.stream);
  const ConvShape shape = conv(n, size, c, out_c);
  const int64_t pixels = n * size * size;
  DeviceMemory in = b.random(pixels * c, shape.type), weights = b.random(out_c * 9 * c, shape.type),
               bias = b.random(out_c, shape.type), out = b.random(pixels * out_c, shape.type);
  ConvBuffers buffers{.in = in.address(), .weights = weights.address(), .out = out.address(), .bias = bias.address()};
  ConvCall own{.n = n, .h = size, .w = size, .c = c, .out_c = out_c};
  own.in = buffers.in, own.filters = buffers.weights, own.epilogue.out = buffers.out;
  own.epilogue.bias = buffers.bias, own.epilogue.bias_type = shape.type;
  TuneOn<ConvBuffers> on{b.stream, buffers, b.workspace};
  auto theirs = plan_conv(b.vendor, shape, &on);
  const std::string why = why_no_thin_conv(own, b.context.device());
  if (!theirs || !why.empty()) return print_absence(label, theirs.why_none + why);
  auto call = theirs->bind(buffers, b.workspace);
  std::vector<std::function<void()>> candidates = {[&] { call->launch(b.stream); }, [&] { thin_conv(target, own); }};
  for (ThinTile tile : tiles) candidates.push_back([&, tile] { thin_conv(target, own, tile); });
  const std::vector<double> times = time_candidates(b.context, b.stream, candidates);
  fmt::print("{:<36}{:>9.1f}{:>9.1f}{:>8.2f}{:>9.0f}  ", label, times[0], times[1], times[0] / times[1],
             double(pixels * (c + out_c) * 2) / times[1] * 1e-3);
  for (size_t i = 2; i < times.size(); ++i) {
    const ThinTile& tile = tiles[i - 2];
    fmt::print(" {}x{}: {:.1f}", tile.h, tile.w, times[i]);
  }
  fmt::print("\n");
  std::fflush(stdout);
}

void thin_convs(Bench& b) {
  Kernels kernels(b.context);
  fmt::print("\n{:<36}{:>9}{:>9}{:>8}{:>9}\n", "3x3 of few channels: us", "cuDNN", "own", "gain", "GB/s");
  const std::vector<ThinTile> inputs = {{32, 8}, {16, 8}, {8, 8}, {4, 8}};
  const std::vector<ThinTile> outputs = {{16, 32}, {16, 16}, {8, 16}, {8, 8}, {4, 8}};
  auto row = [&](const auto&... what) { guarded("thin", [&] { thin_row(b, kernels, what...); }); };
  row("sd15", 2, 64, 4, 320, inputs);
  row("sdxl", 2, 128, 4, 320, inputs);
  row("inpainting", 2, 64, 9, 320, inputs);
  row("decoder", 1, 128, 4, 512, inputs);
  row("encoder", 1, 1024, 3, 128, inputs);
  row("sd15", 2, 64, 320, 4, outputs);
  row("sdxl", 2, 128, 320, 4, outputs);
  row("decoder", 1, 512, 128, 3, outputs);
  row("decoder", 1, 1024, 128, 3, std::vector<ThinTile>{{32, 32}, {24, 32}, {16, 48}, {16, 32}, {16, 16}, {8, 32}, {8, 16}});
}

int run(int argc, char** argv) {
  int device = 0, at = 1;
  bool quick = false;
  std::string filter;
  for (; at < argc; ++at) {
    if (!std::strcmp(argv[at], "--quick")) {
      quick = true;
    } else if (!std::strcmp(argv[at], "--device") && at + 1 < argc) {
      device = std::atoi(argv[++at]);
    } else {
      filter += (filter.empty() ? "" : " ") + std::string(argv[at]);
    }
  }
  std::string why;
  if (devices(&why).empty()) {
    fmt::print("no CUDA device: {}\n", why);
    return 0;
  }
  Bench b(device);
  b.quick = quick;
  b.filter = filter;
  auto version = [](const auto* calls, const std::string& why_none) { return calls ? calls->version_text() : why_none; };
  fmt::print("{}, cuBLASLt {}, cuDNN {}\n", b.context.device().name, version(b.vendor.cublaslt(), b.vendor.why_no_cublaslt()),
             version(b.vendor.cudnn(), b.vendor.why_no_cudnn()));
  tiles(b);
  linears(b);
  attentions(b);
  prompts(b);
  selves(b);
  convs(b);
  windows(b);
  splits(b);
  shortcuts(b);
  thin_convs(b);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& e) {
    fmt::print(stderr, "{}\n", e.message());
    return 1;
  }
}
