// Generated row kernels against the copy bandwidth of this machine, measured in the same run; and how long compiling takes.
//   row_kernel_bench [--quick]
#include <fmt/core.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "backends/cpu/host.h"
#include "backends/cpu/object_code.h"
#include "base/thread_pool.h"

using namespace sinter;

namespace {

double seconds_of(const std::function<void()>& run) {
  auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}
int tries = 7;

double best_seconds(const std::function<void()>& run) {
  double best = 1e30;
  for (int i = 0; i < tries; ++i) best = std::min(best, seconds_of(run));
  return best;
}

/// Writes a kernel's body; the first operands are read, the last is written.
struct Build {
  RowKernel kernel;
  int operand(DType type, ColumnAccess column = ColumnAccess::dense) {
    kernel.operands.push_back({.dtype = type, .column = column});
    return int(kernel.operands.size()) - 1;
  }
  int step(KernelStep s) {
    kernel.body.push_back(s);
    return int(kernel.body.size()) - 1;
  }
  int load(DType type, ColumnAccess column = ColumnAccess::dense) {
    return step({.kind = KernelStep::load, .operand = operand(type, column)});
  }
  int number(double value) { return step({.kind = KernelStep::constant, .value = value}); }
  int prim(Prim p, int a, int b = -1, int c = -1) {
    return step({.kind = KernelStep::primitive, .prim = p, .a = a, .b = b, .c = c});
  }
  int sum(int a) { return step({.kind = KernelStep::reduce_sum, .a = a}); }
  RowKernel store(int value, DType type) {
    int to = operand(type);
    kernel.operands[size_t(to)].written = true;
    step({.kind = KernelStep::store, .a = value, .operand = to});
    return kernel;
  }
};

RowKernel copy(DType type) {
  Build k;
  return k.store(k.load(type), type);
}
RowKernel add(DType type) {
  Build k;
  int a = k.load(type), b = k.load(type);
  return k.store(k.prim(Prim::add, a, b), type);
}
RowKernel scale_add(DType type) {
  Build k;
  int a = k.load(type), b = k.load(type), scale = k.load(type, ColumnAccess::broadcast);
  return k.store(k.prim(Prim::add, a, k.prim(Prim::multiply, b, scale)), type);
}
RowKernel function_of(Prim p, DType type) {
  Build k;
  return k.store(k.prim(p, k.load(type)), type);
}
RowKernel silu(DType type) {
  Build k;
  int x = k.load(type), e = k.prim(Prim::exp, k.prim(Prim::negate, x));
  return k.store(k.prim(Prim::divide, x, k.prim(Prim::add, e, k.number(1))), type);
}
RowKernel gelu(DType type) {
  Build k;
  int x = k.load(type), e = k.prim(Prim::erf, k.prim(Prim::multiply, x, k.number(0.70710678118654752)));
  return k.store(k.prim(Prim::multiply, k.prim(Prim::multiply, x, k.number(0.5)), k.prim(Prim::add, e, k.number(1))), type);
}
RowKernel layer_norm(DType type, int columns) {
  Build k;
  int x = k.load(type), scale = k.load(DType::f32), shift = k.load(DType::f32), n = k.number(1.0 / columns);
  int centred = k.prim(Prim::subtract, x, k.prim(Prim::multiply, k.sum(x), n));
  int variance = k.prim(Prim::multiply, k.sum(k.prim(Prim::multiply, centred, centred)), n);
  int unit = k.prim(Prim::multiply, centred, k.prim(Prim::rsqrt, k.prim(Prim::add, variance, k.number(1e-5))));
  return k.store(k.prim(Prim::add, k.prim(Prim::multiply, unit, scale), shift), type);
}
RowKernel softmax(DType type) {
  Build k;
  int x = k.load(type), top = k.step({.kind = KernelStep::reduce_max, .a = x});
  int e = k.prim(Prim::exp, k.prim(Prim::subtract, x, top));
  return k.store(k.prim(Prim::divide, e, k.sum(e)), type);
}

struct Bench {
  std::string name;
  RowKernel kernel;
  int64_t columns;
};

constexpr int64_t kElements = 64 << 20;

/// Params for dense rows one after the other; columns-long operands (f32 beside another type or the norm's) repeat each row.
std::vector<int64_t> dense_params(const Bench& bench, int64_t rows) {
  std::vector<int64_t> params{bench.columns, rows};
  bool norm = bench.name.starts_with("layer norm");
  for (size_t i = 0; i < bench.kernel.operands.size(); ++i) {
    const KernelOperand& o = bench.kernel.operands[i];
    bool repeated = o.column == ColumnAccess::broadcast || (norm && (i == 1 || i == 2));
    params.push_back(repeated ? 0 : bench.columns);
    params.push_back(1);
  }
  return params;
}

/// Numbers as activations are: subnormals would measure something else.
void fill(std::vector<char>& buffer, DType type) {
  std::vector<float> values(4096);
  for (size_t i = 0; i < values.size(); ++i) values[i] = 3 * std::sin(float(i * i));
  size_t bytes = values.size() * size_t(byte_size(type));
  for (size_t at = 0; at < size_t(kElements * byte_size(type)); at += bytes)
    convert(values.data(), DType::f32, buffer.data() + at, type, int64_t(values.size()));
}

/// Bytes read and written a second by memcpy on all threads.
double copy_bandwidth(ThreadPool& pool, std::vector<std::vector<char>>& buffers) {
  char *to = buffers[0].data(), *from = buffers[1].data();
  double seconds = best_seconds([&] {
    pool.parallel_for(kElements * 4, 1 << 20,
                      [&](int64_t begin, int64_t end, int) { std::memcpy(to + begin, from + begin, size_t(end - begin)); });
  });
  return 2.0 * kElements * 4 / seconds;
}

void measure(const Bench& bench, const CpuTarget& target, ThreadPool& pool, std::vector<std::vector<char>>& buffers) {
  double copy_rate = copy_bandwidth(pool, buffers);
  ObjectCode code(code_generator().row_kernels(std::vector<NamedKernel>{{"kernel", bench.kernel}}, target));
  auto run = code.function<RowKernelFunction>("kernel");
  int64_t rows = kElements / bench.columns;
  std::vector<int64_t> params = dense_params(bench, rows);
  std::vector<char*> operands;
  double bytes = 0;
  for (size_t i = 0; i < bench.kernel.operands.size(); ++i) {
    std::vector<char>& buffer = buffers[bench.kernel.operands[i].written ? 0 : i + 1];
    if (!bench.kernel.operands[i].written) fill(buffer, bench.kernel.operands[i].dtype);
    operands.push_back(buffer.data());
    if (params[2 + 2 * i] != 0) bytes += double(byte_size(bench.kernel.operands[i].dtype) * kElements);
  }
  int64_t grain = std::max<int64_t>(1, 65536 / bench.columns);
  double seconds = best_seconds([&] {
    if (rows == 1)  // pieces of columns
      pool.parallel_for(bench.columns, 65536,
                        [&](int64_t begin, int64_t end, int) { run(operands.data(), params.data(), 0, 1, begin, end); });
    else
      pool.parallel_for(rows, grain, [&](int64_t begin, int64_t end, int) {
        run(operands.data(), params.data(), begin, end, 0, bench.columns);
      });
  });
  // In cache: one thread, 16 K elements again and again.
  int64_t cached_columns = std::min<int64_t>(bench.columns, 16384), cached_rows = 16384 / cached_columns;
  std::vector<int64_t> small = params;
  small[0] = cached_columns;
  double cached = best_seconds([&] {
    for (int i = 0; i < 200; ++i) run(operands.data(), small.data(), 0, cached_rows, 0, cached_columns);
  });
  fmt::print("{:24} {:7.1f} GB/s  {:5.2f} of copy   in cache {:6.3f} ns an element\n", bench.name, bytes / seconds * 1e-9,
             bytes / seconds / copy_rate, cached * 1e9 / (200.0 * double(cached_rows * cached_columns)));
}

void compile_times(const std::vector<Bench>& kernels, const CpuTarget& target) {
  double all = 0, worst = 0;
  std::string slowest;
  for (const Bench& k : kernels) {
    double seconds = best_seconds([&] { code_generator().row_kernels(std::vector<NamedKernel>{{"kernel", k.kernel}}, target); });
    all += seconds;
    if (seconds > worst) worst = seconds, slowest = k.name;
  }
  std::vector<NamedKernel> together;
  for (const Bench& k : kernels) together.push_back({fmt::format("k{}", together.size()), k.kernel});
  double one_module = best_seconds([&] { code_generator().row_kernels(together, target); });
  fmt::print("{}: {:.2f} ms a kernel one by one (slowest {:.2f} ms, {}), {:.2f} ms a kernel in one module\n", target.cpu,
             all * 1e3 / double(kernels.size()), worst * 1e3, slowest, one_module * 1e3 / double(kernels.size()));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) != "--quick") return fmt::print(stderr, "row_kernel_bench [--quick]\n"), 1;
  if (argc > 1) tries = 2;
  ThreadPool pool;
  std::vector<std::vector<char>> buffers(5, std::vector<char>(kElements * 4, 1));
  fmt::print("{}, {} threads; copy {:.1f} GB/s (read and written)\n", host_cpu().model, pool.threads(),
             copy_bandwidth(pool, buffers) * 1e-9);

  std::vector<Bench> all;
  for (DType type : {DType::f32, DType::bf16, DType::f16}) {
    auto named = [&](const char* what) { return fmt::format("{} {}", what, name(type)); };
    all.push_back({named("copy"), copy(type), kElements});
    all.push_back({named("add"), add(type), kElements});
    all.push_back({named("scale-add"), scale_add(type), 4096});
    all.push_back({named("silu"), silu(type), kElements});
    all.push_back({named("gelu"), gelu(type), kElements});
    all.push_back({named("layer norm 1024"), layer_norm(type, 1024), 1024});
    all.push_back({named("softmax 1024"), softmax(type), 1024});
    all.push_back({named("tanh"), function_of(Prim::tanh, type), kElements});
    all.push_back({named("sin"), function_of(Prim::sin, type), kElements});
  }
  std::vector<CpuTarget> targets{cpu_target("avx2", host_cpu())};
  if (host_cpu().level_avx512()) targets.push_back(cpu_target("avx512", host_cpu()));
  for (const CpuTarget& target : targets) {
    compile_times(all, target);
    for (const Bench& bench : all) measure(bench, target, pool, buffers);
  }
}
