// The fixed kernels of backends/cuda/kernels against a device copy in the same run. Buffers change from launch to launch through
// more memory than the cache holds, so that every launch reads and writes device memory; --warm keeps to one. --captured launches
// them as one device graph, as plans do: one by one, the host's 3 to 4 us for each launch hide what a short kernel takes.
// --group-stats keeps to those.
#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/kernels/gemm.h"
#include "backends/cuda/kernels/group_stats.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kPoolBytes = int64_t(1) << 30;

class Bench {
 public:
  Bench(bool warm, bool captured) : warm_(warm), captured_(captured) {
    fill_words(counters_.address(), 0, kGroupStatsCounters, stream_);
    // Random numbers: zeros run faster than real data.
    for (DeviceMemory* pool : {&in_, &out_}) fill_normal(target_, pool->address(), DType::bf16, kPoolBytes / 2, 1, 0, 1);
  }

  /// Times launches that read `read` bytes of one pool and write `written` of another.
  void run(const std::string& name, int64_t read, int64_t written, const std::function<void(DevicePtr, DevicePtr)>& launch) {
    const int64_t stride = (std::max(read, written) + 255) / 256 * 256;
    const int64_t places = warm_ ? 1 : std::max<int64_t>(1, kPoolBytes / stride);
    auto place = [&](int i) { return DevicePtr(i % places * stride); };
    const int count = int(std::clamp<int64_t>((int64_t(8) << 30) / (read + written + 1), 10, 200));
    double best = 1e30;
    auto launch_all = [&] {
      for (int i = 0; i < count; ++i) launch(in_.address() + place(i), out_.address() + place(i));
    };
    CapturedGraph graph;
    if (captured_) {
      launch_all();  // compiles the kernels
      Capture capture(stream_);
      launch_all();
      graph = capture.finish();
    }
    for (int round = 0; round < 5; ++round) {
      start_.record(stream_);
      if (captured_)
        graph.launch(stream_);
      else
        launch_all();
      end_.record(stream_);
      end_.synchronize();
      if (round) best = std::min(best, end_.milliseconds_since(start_) * 1e-3 / count);
    }
    const double rate = double(read + written) / best;
    if (copy_rate_ == 0) copy_rate_ = rate;
    fmt::print("{:<44}{:>10.1f}{:>10.1f}{:>10.0f}{:>9.0f} %\n", name, double(read + written) / 1e6, best * 1e6, rate / 1e9,
               100 * rate / copy_rate_);
  }

  void all_group_stats() {
    fmt::print("{}, {}{}\n{:<44}{:>10}{:>10}{:>10}{:>11}\n", context_.device().name, warm_ ? "warm" : "cold",
               captured_ ? ", captured" : "", "", "MB", "us", "GB/s", "of copy");
    copy();
    for (auto [channels, side] : {std::pair{320, 64},
                                  {640, 64},
                                  {960, 64},
                                  {320, 32},
                                  {640, 32},
                                  {960, 32},
                                  {1280, 32},
                                  {1920, 32},
                                  {640, 16},
                                  {1280, 16},
                                  {1920, 16},
                                  {2560, 16},
                                  {1280, 8},
                                  {2560, 8}})
      group_stats_of(fmt::format("group stats 2x{}x{}x{} bf16", channels, side, side), 2, side * side, channels, DType::bf16);
    group_stats_of("group stats 2x320x128x128 bf16", 2, 128 * 128, 320, DType::bf16);
    group_stats_of("group stats 2x2560x32x32 bf16", 2, 32 * 32, 2560, DType::bf16);
    group_stats_of("group stats 1x128x1024x1024 bf16", 1, 1024 * 1024, 128, DType::bf16);
    group_stats_of("group stats 1x512x256x256 bf16", 1, 256 * 256, 512, DType::bf16);
    group_stats_of("group stats 1x256x512x512 f32", 1, 512 * 512, 256, DType::f32);
  }

  void all() {
    all_group_stats();
    for (DType from : {DType::f32, DType::bf16, DType::f8e4m3})
      for (DType to : {DType::f32, DType::bf16, DType::f8e4m3})
        if (from != to) cast_of(from, to);
    quantise_of(4608, 3072);
    quantise_of(4608, 12288);
    quantise_of(4608, 15360);
    filters_of(1280, 1280);
    run("normals 128 M bf16", 0, 256 << 20,
        [&](DevicePtr, DevicePtr out) { fill_normal(target_, out, DType::bf16, 128 << 20, 1, 0, 0.02f); });
    fmt::print("\n{:<44}{:>10}{:>10}{:>10}\n", "without the vendor's libraries", "GFLOP", "us", "TFLOP/s");
    matmul_of(4608, 12288, 3072, DType::bf16);
    matmul_of(4608, 3072, 15360, DType::f16);
    matmul_of(2048, 2048, 2048, DType::f32);
    conv_of(2, 128, 320, DType::bf16);
    conv_of(2, 32, 1280, DType::bf16);
    conv_of(1, 512, 256, DType::bf16);
    attention_of(24, 4608, 128, DType::bf16);
    attention_of(10, 4096, 64, DType::bf16);
    attention_of(8, 4096, 40, DType::bf16);
    attention_of(1, 16384, 512, DType::bf16);
  }

 private:
  /// Bursts of a few launches on random numbers.
  void run_flops(const std::string& name, double flops, const std::function<void()>& launch) {
    const int count = int(std::clamp(2e13 / flops, 3.0, 50.0));
    double best = 1e30;
    for (int round = 0; round < 4; ++round) {
      start_.record(stream_);
      for (int i = 0; i < count; ++i) launch();
      end_.record(stream_);
      end_.synchronize();
      if (round) best = std::min(best, end_.milliseconds_since(start_) * 1e-3 / count);
    }
    fmt::print("{:<44}{:>10.0f}{:>10.1f}{:>10.1f}\n", name, flops / 1e9, best * 1e6, flops / best / 1e12);
  }
  void fill(DType type) { fill_normal(target_, in_.address(), type, kPoolBytes / byte_size(type), 1, 0, 1); }
  void matmul_of(int64_t m, int64_t n, int64_t k, DType type) {
    fill(type);
    MatmulCall call{.m = m, .n = n, .k = k, .type = type, .a = in_.address(), .w = in_.address() + DevicePtr(kPoolBytes / 2)};
    call.epilogue = {.out = out_.address(), .out_type = type};
    run_flops(fmt::format("matmul {}x{}x{} {}", m, n, k, name(type)), 2.0 * double(m) * double(n) * double(k),
              [&] { matmul(target_, call); });
  }
  void conv_of(int64_t n, int64_t side, int64_t channels, DType type) {
    fill(type);
    ConvCall call{.n = n, .h = side, .w = side, .c = channels, .out_c = channels, .type = type, .in = in_.address()};
    call.filters = in_.address() + DevicePtr(kPoolBytes / 2);
    call.epilogue = {.out = out_.address(), .out_type = type};
    run_flops(fmt::format("conv 3x3 {}x{}x{}x{} {}", n, channels, side, side, name(type)),
              18.0 * double(n * side * side) * double(channels * channels), [&] { conv(target_, call); });
  }
  void attention_of(int64_t heads, int64_t tokens, int64_t d, DType type) {
    fill(type);
    AttentionCall call{.heads = heads, .queries = tokens, .keys = tokens, .d = d, .scale = 0.1f, .type = type};
    const DevicePtr step = DevicePtr(heads * tokens * d * byte_size(type) + 255) / 256 * 256;
    call.q = in_.address();
    call.k = call.q + step;
    call.v = call.k + step;
    call.out = out_.address();
    call.q_strides = call.k_strides = call.v_strides = call.out_strides = {heads * tokens * d, heads * d, d};
    DeviceMemory workspace(context_, attention_workspace_bytes(call, attention_keeps_scores(call)));
    call.workspace = workspace.address();
    run_flops(fmt::format("attention {}x{}x{} {}", heads, tokens, d, name(type)),
              4.0 * double(heads) * double(tokens) * double(tokens) * double(d), [&] { attention(target_, call); });
    context_.synchronize();
  }
  void copy() {
    constexpr int64_t kBytes = 256 << 20;
    run("copy 256 MiB", kBytes, kBytes, [&](DevicePtr in, DevicePtr out) { copy_on_device(out, in, kBytes, stream_); });
  }
  void group_stats_of(const std::string& name, int64_t n, int64_t pixels, int64_t channels, DType type) {
    GroupStatsCall call{.n = n, .pixels = pixels, .channels = channels, .groups = 32, .type = type};
    DeviceMemory workspace(context_, group_stats_workspace_bytes(call, target_.multiprocessors()));
    DeviceMemory out(context_, n * 2 * channels * 4);
    call.workspace = workspace.address();
    call.counters = counters_.address();
    call.out = out.address();
    run(name, n * pixels * channels * byte_size(type), out.bytes(), [&](DevicePtr in, DevicePtr) {
      call.x = in;
      group_stats(target_, call);
    });
    context_.synchronize();
  }
  void cast_of(DType from, DType to) {
    constexpr int64_t kCount = 48 << 20;
    CastCall call{.from_type = from, .to_type = to, .count = kCount};
    run(fmt::format("cast 48 M {} to {}", name(from), name(to)), kCount * byte_size(from), kCount * byte_size(to),
        [&](DevicePtr in, DevicePtr out) {
          call.from = in;
          call.to = out;
          cast(target_, call);
        });
  }
  void quantise_of(int64_t rows, int64_t columns) {
    DeviceMemory scales(context_, rows * 4);
    QuantiseRowsCall call{.rows = rows, .columns = columns, .scales = scales.address()};
    run(fmt::format("quantise {}x{} bf16", rows, columns), rows * columns * 2, rows * columns, [&](DevicePtr in, DevicePtr out) {
      call.x = in;
      call.to = out;
      quantise_rows(target_, call);
    });
    context_.synchronize();
  }
  void filters_of(int64_t k, int64_t c) {
    FiltersCall call{.from_type = DType::f16, .to_type = DType::bf16, .k = k, .c = c};
    run(fmt::format("filters {}x{}x3x3 f16 to bf16", k, c), k * c * 18, k * c * 18, [&](DevicePtr in, DevicePtr out) {
      call.from = in;
      call.to = out;
      filters_channels_last(target_, call);
    });
  }

  bool warm_, captured_;
  Context context_{0};
  Stream stream_{context_};
  Kernels kernels_{context_};
  KernelStream target_{kernels_, stream_};
  DeviceMemory in_{context_, kPoolBytes}, out_{context_, kPoolBytes};
  DeviceMemory counters_{context_, kGroupStatsCounters * 4};
  Event start_{context_, Event::Timing::Yes}, end_{context_, Event::Timing::Yes};
  double copy_rate_ = 0;
};

}  // namespace
}  // namespace sinter::cuda

int main(int count, char** words) {
  try {
    std::string why;
    if (sinter::cuda::devices(&why).empty()) {
      fmt::print("skipped: no CUDA device ({})\n", why);
      return 0;
    }
    auto given = [&](const char* option) {
      return std::any_of(words + 1, words + count, [&](char* w) { return !std::strcmp(w, option); });
    };
    sinter::cuda::Bench bench(given("--warm"), given("--captured"));
    given("--group-stats") ? bench.all_group_stats() : bench.all();
  } catch (const sinter::Error& e) {
    fmt::print(stderr, "{}\n", e.message());
    return 1;
  }
}
