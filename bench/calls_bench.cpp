// Matrix products, convolutions, attention and group statistics of the CPU backend, against oneDNN where there is one.
//   calls_bench [--quick] [threads] [words that a row's name must contain]
// Both sides run in one process on the same buffers (oneDNN with the layouts it likes best and reordered weights); a row shows
// the best time of each. SINTER_CPU_TARGET=avx2 holds both to AVX2.
#include <pthread.h>
#include <sys/mman.h>

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "backends/cpu/calls/attention.h"
#include "backends/cpu/calls/conv.h"
#include "backends/cpu/calls/group_stats.h"
#include "backends/cpu/calls/linear.h"
#include "backends/cpu/calls/pack.h"
#include "bench_tools.h"
#include "onednn.h"

using namespace sinter;

namespace {

struct Bench {
  CpuTarget target = host_target();
  ObjectCode code{code_generator().microkernels(target)};
  Microkernels kernels = load_microkernels(code, target, host_cpu());
  ThreadPool pool;
  std::string filter;
  double gemm_rate = 0, dot_rate = 0;

  explicit Bench(int threads) : pool(threads) {}
  bool wanted(const std::string& name) const { return name.find(filter) != std::string::npos; }
};

struct Columns {
  std::optional<double> f32, f16, bf16_dot, peer, peer_bf16;  // seconds
};

void print_row(const std::string& name, double flops, const Columns& c) {
  auto rate = [&](const std::optional<double>& seconds) {
    return seconds ? fmt::format("{:8.0f}", flops / *seconds * 1e-9) : std::string("       -");
  };
  auto ratio = [](const std::optional<double>& ours, const std::optional<double>& peer) {
    return ours && peer ? fmt::format("{:6.2f}", *peer / *ours) : std::string("     -");
  };
  fmt::print("{:<34}{}{}{}{}{}{}{}{}\n", name, rate(c.f32), rate(c.f16), rate(c.peer), ratio(c.f32, c.peer), ratio(c.f16, c.peer),
             rate(c.bf16_dot), rate(c.peer_bf16), ratio(c.bf16_dot, c.peer_bf16));
  std::fflush(stdout);
}

void print_head(const char* what) {
  fmt::print("\n{:<34}{:>8}{:>8}{:>8}{:>6}{:>6}{:>8}{:>8}{:>6}   (GFLOP/s)\n", what, "f32", "f16 w", "oneDNN", "/f32", "/f16",
             "bf16", "oneDNN", "ratio");
}

double our_linear(Bench& b, int64_t m, int64_t n, int64_t k, PanelType type) {
  LinearShape s{.m = m, .n = n, .k = k, .weights = type, .a_stride = k};
  if (type == PanelType::bf16_dot) s.a = DType::bf16;  // as the peer
  PanelLayout layout = panel_layout(type, n, k, 1, b.kernels);
  auto w = random_floats(n * k), a = random_floats(m * k);
  Memory packed(layout.bytes()), out(m * n * 4), workspace(linear_workspace_bytes(s, b.pool.threads(), b.kernels));
  pack_matrix(layout, {w->as(), DType::f32, 0, n}, packed.as<char>(), b.pool);
  LinearCall call{s, a->as(), packed.as<char>(), nullptr, nullptr, out.as(), n, workspace.as<char>()};
  return best_time([&] { linear(call, b.kernels, b.pool); });
}

double our_conv(Bench& b, ConvShape s, PanelType type) {
  s.weights = type;
  s.pixel_stride = s.c;
  if (type == PanelType::bf16_dot) s.in = DType::bf16;  // as the peer
  PanelLayout layout = conv_layout(type, s.out_c, s.c, s.kernel_h, s.kernel_w, b.kernels);
  auto w = random_floats(s.out_c * s.c * s.kernel_h * s.kernel_w), in = random_floats(s.n * s.h * s.w * s.c);
  Memory packed(layout.bytes()), out(s.n * s.out_h() * s.out_w() * s.out_c * 4);
  Memory workspace(conv_workspace_bytes(s, b.pool.threads(), b.kernels));
  pack_conv(layout, {w->as(), DType::f32, 0, s.out_c}, s.c, s.kernel_h, s.kernel_w, packed.as<char>(), b.pool);
  ConvCall call{s, in->as(), packed.as<char>(), nullptr, nullptr, out.as(), s.out_c, workspace.as<char>()};
  return best_time([&] { conv(call, b.kernels, b.pool); });
}

void bench_linear(Bench& b) {
  static constexpr int64_t kShapes[][3] = {{8192, 320, 320},  {8192, 2560, 320}, {8192, 320, 1280},  {2048, 640, 640},
                                           {2048, 5120, 640}, {2048, 640, 2560}, {512, 1280, 1280},  {512, 10240, 1280},
                                           {512, 1280, 5120}, {128, 1280, 1280}, {154, 320, 768},    {154, 1280, 768},
                                           {77, 3072, 768},   {77, 768, 3072},   {256, 10240, 4096}, {1280, 3072, 3072},
                                           {2, 1280, 320},    {2, 1280, 1280},   {1, 18432, 3072}};
  print_head("linear m n k");
  for (auto [m, n, k] : kShapes) {
    std::string name = fmt::format("linear {} {} {}", m, n, k);
    if (!b.wanted(name)) continue;
    Columns c;
    c.f32 = our_linear(b, m, n, k, PanelType::f32);
    c.f16 = our_linear(b, m, n, k, PanelType::f16);
    if (b.kernels.dot) c.bf16_dot = our_linear(b, m, n, k, PanelType::bf16_dot);
#ifdef SINTER_HAVE_ONEDNN
    c.peer = onednn_linear(m, n, k, dnnl::memory::data_type::f32);
    if (b.kernels.dot) c.peer_bf16 = onednn_linear(m, n, k, dnnl::memory::data_type::bf16);
#endif
    print_row(name, 2.0 * double(m) * double(n) * double(k), c);
  }
}

void bench_conv(Bench& b) {
  struct Row {
    int64_t n, size, c, out_c;
    int kernel = 3, stride = 1;
  };
  static constexpr Row kRows[] = {{2, 64, 4, 320},         {2, 64, 320, 320},         {2, 64, 640, 320},  {2, 64, 960, 320},
                                  {2, 64, 320, 320, 3, 2}, {2, 32, 320, 640},         {2, 32, 640, 640},  {2, 32, 1280, 640},
                                  {2, 32, 1920, 640},      {2, 32, 640, 640, 3, 2},   {2, 16, 640, 1280}, {2, 16, 1280, 1280},
                                  {2, 16, 2560, 1280},     {2, 16, 1280, 1280, 3, 2}, {2, 8, 1280, 1280}, {2, 8, 2560, 1280},
                                  {2, 64, 960, 320, 1},    {2, 16, 2560, 1280, 1},    {2, 64, 320, 4},    {1, 64, 4, 512},
                                  {1, 64, 512, 512},       {1, 128, 512, 512},        {1, 256, 512, 512}, {1, 256, 512, 256},
                                  {1, 256, 256, 256},      {1, 256, 512, 256, 1},     {1, 512, 256, 256}, {1, 512, 256, 128},
                                  {1, 512, 128, 128},      {1, 512, 256, 128, 1},     {1, 512, 128, 3}};
  print_head("conv n size c->out kernel/stride");
  for (const Row& r : kRows) {
    std::string name =
        fmt::format("conv {}x{}x{} {}->{} {}x{}/{}", r.n, r.size, r.size, r.c, r.out_c, r.kernel, r.kernel, r.stride);
    if (!b.wanted(name)) continue;
    int pad = r.kernel / 2;
    ConvShape s{.n = r.n,
                .h = r.size,
                .w = r.size,
                .c = r.c,
                .out_c = r.out_c,
                .kernel_h = r.kernel,
                .kernel_w = r.kernel,
                .stride = r.stride,
                .pad_top = pad,
                .pad_left = pad,
                .pad_bottom = pad,
                .pad_right = pad};
    Columns c;
    c.f32 = our_conv(b, s, PanelType::f32);
    c.f16 = our_conv(b, s, PanelType::f16);
    if (b.kernels.dot) c.bf16_dot = our_conv(b, s, PanelType::bf16_dot);
#ifdef SINTER_HAVE_ONEDNN
    c.peer = onednn_conv(s, dnnl::memory::data_type::f32);
    if (b.kernels.dot) c.peer_bf16 = onednn_conv(s, dnnl::memory::data_type::bf16);
#endif
    print_row(name, conv_flops(s), c);
  }
}

/// GFLOP/s.
double our_attention(Bench& b, const AttentionShape& s) {
  const int64_t row = s.heads * s.d;
  auto numbers = [&](int64_t count) {
    auto out = random_floats(count);
    if (s.in == DType::bf16) convert(out->as(), DType::f32, out->as<char>(), DType::bf16, count);
    return out;
  };
  auto q = numbers(s.b * s.queries * row), k = numbers(s.b * s.keys * row), v = numbers(s.b * s.keys * row);
  Memory out(s.b * s.queries * row * 4), workspace(attention_workspace_bytes(s, b.pool.threads(), b.kernels));
  HeadStrides qs{s.queries * row, row, s.d}, ks{s.keys * row, row, s.d};
  AttentionCall call{.shape = s,
                     .q = q->as(),
                     .k = k->as(),
                     .v = v->as(),
                     .q_strides = qs,
                     .k_strides = ks,
                     .v_strides = ks,
                     .out = out.as(),
                     .out_strides = qs,
                     .workspace = workspace.as<char>()};
  return attention_flops(s) / best_time([&] { attention(call, b.kernels, b.pool); }) * 1e-9;
}

void bench_attention(Bench& b) {
  struct Row {
    int64_t b, heads, queries, keys, d;
    bool causal = false;
  };
  static constexpr Row kRows[] = {{2, 8, 4096, 4096, 40},  {2, 8, 4096, 77, 40},     {2, 8, 1024, 1024, 80},
                                  {2, 8, 1024, 77, 80},    {2, 8, 256, 256, 160},    {2, 8, 64, 64, 160},
                                  {2, 8, 64, 77, 160},     {1, 1, 4096, 4096, 512},  {2, 10, 4096, 4096, 64},
                                  {2, 20, 1024, 1024, 64}, {1, 24, 1280, 1280, 128}, {2, 12, 77, 77, 64, true}};
  fmt::print("\n{:<34}{:>8}{:>8}{:>8}{:>8}   (GFLOP/s; share of the best matrix product, {:.0f} and {:.0f})\n",
             "attention b heads q k d", "f32", "share", "bf16", "share", b.gemm_rate, b.dot_rate);
  for (const Row& r : kRows) {
    std::string name = fmt::format("attention {} {} {} {} {}{}", r.b, r.heads, r.queries, r.keys, r.d, r.causal ? " causal" : "");
    if (!b.wanted(name)) continue;
    double f32 = our_attention(b, {r.b, r.heads, r.queries, r.keys, r.d, 1 / std::sqrt(float(r.d)), r.causal});
    fmt::print("{:<34}{:8.0f}{:8.2f}", name, f32, f32 / b.gemm_rate);
    if (b.kernels.dot) {
      double bf16 =
          our_attention(b, {r.b, r.heads, r.queries, r.keys, r.d, 1 / std::sqrt(float(r.d)), r.causal, DType::bf16, DType::bf16});
      fmt::print("{:8.0f}{:8.2f}", bf16, bf16 / b.dot_rate);
    }
    fmt::print("\n");
    std::fflush(stdout);
  }
}

__attribute__((target("avx2"))) int64_t mix(const char* from, const char* end) {
  typedef int64_t Wide __attribute__((vector_size(32)));
  Wide a{}, b{}, c{}, d{};
  for (; from < end; from += 128) {
    auto* words = reinterpret_cast<const Wide*>(from);
    a ^= words[0], b ^= words[1], c ^= words[2], d ^= words[3];
  }
  a ^= b ^ c ^ d;
  return a[0] ^ a[1] ^ a[2] ^ a[3];
}

/// What reading memory alone takes, in pieces of the same size.
double read_seconds(Bench& b, const Memory& memory, int64_t bytes) {
  static std::atomic<int64_t> sink;
  constexpr int64_t kPiece = 256 << 10;
  return best_time([&] {
    b.pool.parallel_for(divide_up(bytes, kPiece), 1, [&](int64_t begin, int64_t end, int) {
      sink += mix(memory.as<char>() + begin * kPiece, memory.as<char>() + std::min(bytes, end * kPiece));
    });
  });
}

void bench_group_stats(Bench& b) {
  fmt::print("\n{:<34}{:>8}{:>8}{:>8}   (GB/s)\n", "group_stats n pixels c", "ours", "read", "ratio");
  static constexpr int64_t kShapes[][3] = {{2, 4096, 320},  {2, 1024, 640},   {2, 64, 1280},
                                           {1, 65536, 512}, {1, 262144, 256}, {1, 262144, 128}};
  for (auto [n, pixels, c] : kShapes) {
    std::string name = fmt::format("group_stats {} {} {}", n, pixels, c);
    if (!b.wanted(name)) continue;
    auto x = random_floats(n * pixels * c);
    Memory out(n * 2 * c * 4), workspace(group_stats_workspace_bytes(n, pixels, c, 32, b.pool.threads()));
    GroupStatsCall call{.n = n,
                        .pixels = pixels,
                        .channels = c,
                        .groups = 32,
                        .x = x->as(),
                        .pixel_stride = c,
                        .out = out.as(),
                        .workspace = workspace.as<char>()};
    double bytes = double(n * pixels * c) * 4;
    double ours = best_time([&] { group_stats(call, b.kernels.vector_floats, b.pool); });
    double read = read_seconds(b, *x, int64_t(bytes));
    fmt::print("{:<34}{:8.1f}{:8.1f}{:8.2f}\n", name, bytes / ours * 1e-9, bytes / read * 1e-9, read / ours);
  }
}

void bench_pack(Bench& b) {
  fmt::print("\n{:<34}{:>8}   (GB/s of source)\n", "pack", "ours");
  struct Row {
    const char* name;
    DType from;
    PanelType to;
    bool conv;
  };
  static constexpr Row kRows[] = {
      {"pack matrix f16", DType::f16, PanelType::f16, false},    {"pack matrix f32", DType::f32, PanelType::f32, false},
      {"pack matrix bf16", DType::bf16, PanelType::bf16, false}, {"pack matrix f8e4m3", DType::f8e4m3, PanelType::f16, false},
      {"pack conv f16", DType::f16, PanelType::f16, true},       {"pack conv f32", DType::f32, PanelType::f32, true}};
  for (const Row& r : kRows) {
    if (!b.wanted(r.name)) continue;
    const int64_t n = 2560, k = r.conv ? 1280 * 9 : 10240;
    Memory source(n * k * byte_size(r.from));
    PanelLayout layout = r.conv ? conv_layout(r.to, n, 1280, 3, 3, b.kernels) : panel_layout(r.to, n, k, 1, b.kernels);
    Memory packed(layout.bytes());
    double seconds = best_time([&] {
      if (r.conv)
        pack_conv(layout, {source.as(), r.from, 0, n}, 1280, 3, 3, packed.as<char>(), b.pool);
      else
        pack_matrix(layout, {source.as(), r.from, 0, n}, packed.as<char>(), b.pool);
    });
    fmt::print("{:<34}{:8.1f}\n", r.name, double(n * k * byte_size(r.from)) / seconds * 1e-9);
  }
}

/// A foreign thread that is always busy on one core takes no more than its share: pieces are handed out on demand.
void bench_contention(Bench& b) {
  if (!b.wanted("contention") || b.pool.threads() < 2) return;
  ConvShape s{.n = 2, .h = 32, .w = 32, .c = 640, .out_c = 640};
  double alone = our_conv(b, s, PanelType::f32);
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    while (!stop) {
    }
  });
  double shared = our_conv(b, s, PanelType::f32);
  stop = true;
  busy.join();
  fmt::print("\ncontention: {:.0f} GFLOP/s alone, {:.0f} beside a busy thread on core 0: {:.2f}\n", conv_flops(s) / alone * 1e-9,
             conv_flops(s) / shared * 1e-9, alone / shared);
}

/// The rate of the largest microkernel on data in the nearest cache, on all threads.
void bench_microkernel(Bench& b) {
  for (PanelType type : {PanelType::f32, PanelType::f16, PanelType::bf16_dot}) {
    Microkernel kernel = b.kernels.get(type, 2, b.kernels.max_rows);
    if (!kernel) continue;
    const int64_t k = 128, rows = b.kernels.max_rows, columns = b.kernels.panel_columns();
    double seconds = best_time([&] {
      b.pool.parallel_for(64 * b.pool.threads(), 1, [&](int64_t, int64_t, int) {
        alignas(64) static thread_local char a[14 * 128 * 4 + 2048], panel[128 * 32 * 4 + 2048], c[14 * 32 * 4];
        for (int i = 0; i < 200; ++i) kernel(a, k * 4 + 64, panel, k, reinterpret_cast<float*>(c), columns * 4, 0);
      });
    });
    double flops = 2.0 * double(k * rows * columns) * 200 * 64 * b.pool.threads() * (type == PanelType::bf16_dot ? 2 : 1);
    if (type == PanelType::f32) b.gemm_rate = flops / seconds * 1e-9;
    if (type == PanelType::bf16_dot) b.dot_rate = flops / seconds * 1e-9;
    fmt::print("microkernel {}: {:.0f} GFLOP/s\n", microkernel_symbol(type, 2, int(rows)), flops / seconds * 1e-9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  double begin = now();
  const char* level = std::getenv("SINTER_CPU_TARGET");
  if (level && std::string(level) == "avx2") setenv("DNNL_MAX_CPU_ISA", "AVX2", 1);
  if (argc > 1 && std::string(argv[1]) == "--quick") {
    patience() = 0.1;
    --argc, ++argv;
  }
  Bench b(argc > 1 ? std::atoi(argv[1]) : 0);
  if (argc > 2) b.filter = argv[2];
  own_clock() = b.pool.threads() == 1;
  double compile = now();
  code_generator().microkernels(b.target);
  compile = now() - compile;
  fmt::print("{}, {}, {} threads; microkernels compile in {:.0f} ms (started in {:.0f} ms)\n", host_cpu().model, b.target.text(),
             b.pool.threads(), compile * 1e3, (now() - begin - compile) * 1e3);
#ifdef SINTER_HAVE_ONEDNN
  omp_set_num_threads(b.pool.threads());
#else
  fmt::print("skipped: oneDNN (libdnnl-dev was not found when this was built)\n");
#endif
  bench_microkernel(b);
  bench_linear(b);
  bench_conv(b);
  bench_attention(b);
  bench_group_stats(b);
  bench_pack(b);
  bench_contention(b);
}
