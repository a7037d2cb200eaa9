// Generated row kernels on a GPU against copies of as many bytes on the device, measured in the same run. Buffers take turns, so
// that little is found in the L2 cache.
//   cuda_row_kernel_bench [f32|f16|bf16]
#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <functional>

#include "../tests/row_kernel_examples.h"
#include "backends/cuda/driver.h"
#include "base/error.h"
#include "compiler/kernel/code_generator.h"

using namespace sinter;
using namespace sinter::cuda;
using namespace sinter::row_kernel_examples;

namespace {

struct Device {
  Context context{0};
  Stream stream{context};
};

/// Milliseconds of one of `count` runs that follow each other, the best of several times.
double milliseconds(const Device& d, int count, const std::function<void(int)>& run) {
  Event begin(d.context, Event::Timing::Yes), end(d.context, Event::Timing::Yes);
  double best = 1e30;
  for (int attempt = 0; attempt < 7; ++attempt) {
    begin.record(d.stream);
    for (int i = 0; i < count; ++i) run(i);
    end.record(d.stream);
    end.synchronize();
    best = std::min(best, end.milliseconds_since(begin) / count);
  }
  return best;
}

/// Bytes from element 0 to the last one of an operand that is walked forwards.
int64_t extent(const Example& e, int operand) {
  const KernelOperand& o = e.kernel.operands[size_t(operand)];
  int64_t last = o.column == ColumnAccess::broadcast ? 0 : e.params[0] - 1;
  for (int d = 0; d < e.kernel.rank; ++d)
    last += (e.params[size_t(1 + d)] - 1) * e.params[size_t(e.kernel.operand_params(operand) + d)];
  return (last + 1) * byte_size(o.dtype);
}

void measure(const Device& d, const Example& e) {
  constexpr int kSets = 4, kRuns = 64;
  GpuFacts facts = facts_of(e.kernel, e.params);
  for (auto& o : facts.operands) o.alone = true;
  GpuSchedule schedule = choose_schedule(e.kernel, facts);
  auto started = std::chrono::steady_clock::now();
  std::vector<NamedGpuKernel> kernels{{"kernel", e.kernel, schedule}};
  std::string ptx = code_generator().gpu_row_kernels(kernels, gpu_target(d.context.device().capability()));
  double generate_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count();
  Module module(d.context, compile_ptx(d.context, ptx, e.name), e.name);
  double compile_ms = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count() - generate_ms;
  Function function = module.function("kernel");

  std::vector<DeviceMemory> memory;
  std::vector<GpuLaunch> launches;
  for (int set = 0; set < kSets; ++set) {
    std::vector<uint64_t> addresses;
    for (int i = 0; i < int(e.kernel.operands.size()); ++i) {
      memory.emplace_back(d.context, extent(e, i), e.name);
      fill_bytes(memory.back().address(), 0x3c, memory.back().bytes(), d.stream);  // numbers near 0.01 in every type
      addresses.push_back(memory.back().address());
    }
    launches.push_back(launch_of(e.kernel, schedule, e.params));
    set_addresses(launches.back(), e.kernel, schedule, addresses);
  }
  double kernel_ms = milliseconds(d, kRuns, [&](int i) {
    const GpuLaunch& launch = launches[size_t(i % kSets)];
    void* arguments[] = {const_cast<int64_t*>(launch.arguments.data())};
    LaunchShape shape;
    shape.grid.x = uint32_t(launch.blocks);
    shape.block.x = uint32_t(launch.threads);
    function.launch(shape, d.stream, arguments);
  });
  memory.clear();

  auto half = int64_t(e.bytes / 2);
  for (int i = 0; i < 2 * kSets; ++i) memory.emplace_back(d.context, half, "a copy");
  double copy_ms = milliseconds(d, kRuns, [&](int i) {
    size_t set = 2 * size_t(i % kSets);
    copy_on_device(memory[set].address(), memory[set + 1].address(), half, d.stream);
  });
  fmt::print("{:<34} {:>8.1f} {:>8.1f} {:>8.0f} {:>8.0f} {:>6.2f} {:>6} {:>9.1f} {:>9.1f}  {}\n", e.name, e.bytes / 1e6,
             1e3 * kernel_ms, e.bytes / kernel_ms / 1e6, e.bytes / copy_ms / 1e6, copy_ms / kernel_ms, function.registers(),
             generate_ms, compile_ms, schedule.text());
}

}  // namespace

int main(int count, char** arguments) {
  try {
    std::string why;
    if (devices(&why).empty()) {
      fmt::print("skipped: no CUDA device ({})\n", why);
      return 0;
    }
    DType type = DType::bf16;
    if (count > 1) {
      auto named = parse_dtype(arguments[1]);
      if (!named) fail(Code::InvalidArgument, "{}: not an element type", arguments[1]);
      type = *named;
    }
    Device device;
    fmt::print("{}, {}\n", device.context.device().name, name(type));
    fmt::print("{:<34} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>9} {:>9}\n", "kernel", "MB", "us", "GB/s", "copy", "ratio", "regs",
               "PTX ms", "cubin ms");
    for (const Example& e : main_kernels(type)) measure(device, e);
  } catch (const Error& e) {
    fmt::print(stderr, "{}\n", e.message());
    return 1;
  }
}
