#include "compiler/kernel/gpu_row_kernel.h"

#include <doctest/doctest.h>
#include <fmt/core.h>

#include <bit>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "backends/cpu/host.h"
#include "backends/cpu/object_code.h"
#include "gpu_cases.h"
#include "gpu_rehearsal.h"
#include "guarded_memory.h"
#include "refusal.h"
#include "row_kernel_examples.h"
#include "temporary_folder.h"

namespace sinter {
namespace {

using namespace row_kernel_cases;
using namespace row_kernel_examples;

std::vector<uint64_t> as_numbers(const std::vector<char*>& addresses) {
  std::vector<uint64_t> all;
  for (char* a : addresses) all.push_back(reinterpret_cast<uintptr_t>(a));
  return all;
}

/// Runs the case on the CPU that plays the GPU.
void rehearse(Case& c, const GpuSchedule& schedule, const std::vector<char*>& operands) {
  std::vector<NamedGpuKernel> kernels{{"kernel", c.kernel, schedule}};
  ObjectCode code(code_generator().gpu_rehearsal(kernels, host_target()));
  GpuLaunch launch = launch_of(c.kernel, schedule, c.params);
  set_addresses(launch, c.kernel, schedule, as_numbers(operands));
  RehearsedGpu().run(code.function<GpuRehearsalFunction>("kernel"), launch);
}

TEST_CASE("row kernels in their GPU form do what the reference does, on a CPU that plays the GPU") {
  for (uint64_t i = 0; i < 300; ++i) {
    Random random(seed() + i);
    Case c = whole_case(random);
    GpuSchedule schedule;
    std::string wrong = difference(c, [&](Case& now) {
      run_guarded(now, i % 2 == 0, [&](const std::vector<char*>& operands) {
        schedule = any_schedule(random, now, as_numbers(operands));
        rehearse(now, schedule, operands);
      });
    });
    CHECK_MESSAGE(wrong.empty(), report(c, schedule, seed() + i, wrong));
  }
}

TEST_CASE("the main kernels in their GPU form do what the reference does, on a CPU that plays the GPU") {
  for (DType type : {DType::bf16, DType::f16, DType::f32})
    for (const Example& e : small_main_kernels(type)) {
      Random random(seed());
      Case c = example_case(random, e);
      std::string wrong = difference(c, [&](Case& now) {
        run_guarded(now, false, [&](const std::vector<char*>& operands) { rehearse(now, schedule_of(e), operands); });
      });
      CHECK_MESSAGE(wrong.empty(), e.name, "\n", report(c, schedule_of(e), seed(), wrong));
    }
}

TEST_CASE("a divisor divides as the processor does") {
  std::mt19937_64 random(seed());
  for (int i = 0; i < 200'000; ++i) {
    int64_t d = int64_t(random() >> 33 >> (random() % 31)) + 1, n = int64_t(random() >> 33 >> (random() % 31));
    if (i % 3 == 0) n = n / d * d - (i % 2);
    if (i % 1000 == 0) d = int64_t(1) << 31, n = (int64_t(1) << 31) - 1 - i;
    n = std::max<int64_t>(n, 0);
    GpuDivisor by = divisor(d);
    REQUIRE(int64_t(uint64_t(uint32_t(2 * n)) * by.multiplier >> 32 >> by.shift) == n / d);
  }
}

std::filesystem::path ptxas() {
  const char* home = std::getenv("CUDA_HOME");
  std::filesystem::path path = std::filesystem::path(home ? home : "/usr/local/cuda") / "bin/ptxas";
  return std::filesystem::exists(path) ? path : std::filesystem::path();
}

/// What ptxas -v says about the text; the test fails if it does not assemble.
std::string assemble(const std::string& ptx, const GpuTarget& target) {
  TemporaryFolder folder;
  auto file = folder.path() / "kernel.ptx", log = folder.path() / "log";
  std::ofstream(file) << ptx;
  std::string command = fmt::format("'{}' -v -arch=sm_{} '{}' -o '{}' > '{}' 2>&1", ptxas().string(), target.capability,
                                    file.string(), (folder.path() / "cubin").string(), log.string());
  int status = std::system(command.c_str());
  std::ifstream in(log);
  std::string text((std::istreambuf_iterator<char>(in)), {});
  CHECK_MESSAGE(status == 0, text);
  return text;
}

TEST_CASE("PTX of random kernels assembles for every target") {
  if (ptxas().empty()) MESSAGE("skipped: no ptxas in CUDA_HOME or /usr/local/cuda (the PTX is still generated)");
  for (int capability : {80, 86, 89, 90}) {
    std::vector<NamedGpuKernel> kernels;
    for (uint64_t i = 0; i < 40; ++i) {
      Random random(seed() + 1000 * uint64_t(capability) + i);
      Case c = whole_case(random);
      kernels.push_back({fmt::format("kernel{}", i), c.kernel, any_schedule(random, c, std::vector<uint64_t>(c.memory.size()))});
    }
    for (int p = 0; p <= int(Prim::floor); ++p)
      kernels.push_back({fmt::format("prim{}", p), elementwise(Prim(p)), any_dense_schedule(elementwise(Prim(p)))});
    for (int type = 0; type <= int(DType::boolean); ++type) {
      RowKernel k = conversion(DType(type), DType::f32), back = conversion(DType::f32, DType(type));
      kernels.push_back({fmt::format("from{}", type), k, any_dense_schedule(k)});
      kernels.push_back({fmt::format("to{}", type), back, any_dense_schedule(back)});
    }
    GpuTarget target = gpu_target(capability);
    std::string ptx = code_generator().gpu_row_kernels(kernels, target);
    CHECK(contains(ptx, fmt::format(".target sm_{}", capability)));
    CHECK(contains(ptx, ".visible .entry kernel39("));
    if (!ptxas().empty()) assemble(ptx, target);
  }
}

TEST_CASE("the main kernels use 128-bit accesses, and no local memory") {
  if (ptxas().empty()) MESSAGE("skipped: no ptxas in CUDA_HOME or /usr/local/cuda (spills are not looked for)");
  for (int capability : {80, 90})
    for (DType type : {DType::bf16, DType::f16, DType::f32})
      for (const Example& e : main_kernels(type)) {
        GpuTarget target = gpu_target(capability);
        GpuSchedule schedule = schedule_of(e);
        CAPTURE(e.name);
        CAPTURE(schedule.text());
        std::string ptx = code_generator().gpu_row_kernels(std::vector<NamedGpuKernel>{{"kernel", e.kernel, schedule}}, target);
        CHECK(contains(ptx, target.overlaps_launches() ? "ld.global.v4." : "ld.global.nc.v4."));
        CHECK(contains(ptx, "st.global.v4."));
        for (const char* narrow : {"ld.global.nc.u16", "ld.global.nc.v2.", "ld.global.u16", "ld.global.v2.", "st.global.u16",
                                   "st.global.v2.", ".local"})
          CHECK_MESSAGE(!contains(ptx, narrow), narrow);
        if (ptxas().empty()) continue;
        std::string log = assemble(ptx, target);
        CHECK_MESSAGE(contains(log, " 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads"), log);
        if (std::getenv("SINTER_TEST_VERBOSE")) MESSAGE(e.name, " ", target.text(), " ", schedule.text(), "\n", log);
      }
}

TEST_CASE("kernels for devices that begin them early wait before they touch memory, and take nothing for constant") {
  for (const Example& e : main_kernels(DType::bf16)) {
    CAPTURE(e.name);
    const std::vector<NamedGpuKernel> kernels{{"kernel", e.kernel, schedule_of(e)}};
    std::string early = code_generator().gpu_row_kernels(kernels, gpu_target(90));
    const size_t wait = early.find("griddepcontrol.wait");
    REQUIRE(wait != early.npos);
    CHECK(early.find("griddepcontrol.launch_dependents") < wait);
    CHECK(early.find("ld.global") > wait);
    CHECK(early.find("st.global") > wait);
    CHECK(!contains(early, "ld.global.nc"));
    CHECK(!contains(code_generator().gpu_row_kernels(kernels, gpu_target(89)), "griddepcontrol"));
  }
}

TEST_CASE("a launch covers large sizes, and refuses what its code cannot address") {
  RowKernel k = conversion(DType::bf16, DType::bf16);
  GpuSchedule any = any_dense_schedule(k);
  auto params = [](int64_t columns, int64_t rows, int64_t stride) {
    return std::vector<int64_t>{columns, rows, stride, 1, stride, 1};
  };
  GpuLaunch many = launch_of(k, any, params(8, int64_t(1) << 31, 8));
  CHECK(many.blocks * any.block_rows >= int64_t(1) << 31);
  GpuLaunch wide = launch_of(k, any, params((int64_t(1) << 31) - 8, 1, 8));
  CHECK(wide.blocks * any.chunk() >= (int64_t(1) << 31) - 8);
  CHECK(launch_of(k, any, params(8, 0, 8)).blocks == 0);
  CHECK(contains(refusal([&] { launch_of(k, any, params(8, (int64_t(1) << 31) + 1, 8)); }), "2147483649 rows"));
  CHECK(contains(refusal([&] { launch_of(k, any, params(8, 2, int64_t(1) << 30)); }), "1073741824 elements"));
  CHECK(contains(refusal([&] { launch_of(k, any, params(12, 2, 8)); }), "12 columns"));
  CHECK(contains(refusal([&] { launch_of(k, any, params(8, 2, 12)); }), "12 elements from one row"));
  any.wide = true;
  CHECK(launch_of(k, any, params(8, 2, int64_t(1) << 30)).blocks > 0);
  GpuLaunch launch = launch_of(k, any, params(8, 2, 8));
  CHECK(contains(refusal([&] { set_addresses(launch, k, any, std::vector<uint64_t>{4096, 4104}); }), "takes 16 bytes"));
}

TEST_CASE("swap_pairs needs an even number of columns") {
  RowKernel k = conversion(DType::f32, DType::f32);
  k.body = {load(0), {.kind = KernelStep::swap_pairs, .a = 0}, store(1, 1)};
  GpuFacts facts = facts_of(k, std::vector<int64_t>{7, 1, 7, 1, 7, 1});
  CHECK(contains(refusal([&] { choose_schedule(k, facts); }), "even number of columns"));
  facts.columns = 6;
  CHECK(choose_schedule(k, facts).vector == 2);
}

TEST_CASE("what a schedule cannot do is refused before any code is written") {
  RowKernel k = conversion(DType::f32, DType::f32);
  k.body = {load(0), sum(0), prim(Prim::divide, 0, 1), store(1, 2)};
  GpuSchedule s = any_dense_schedule(k);
  s.row_threads = 48;
  s.block_rows = 2;
  auto generate = [&] { code_generator().gpu_row_kernels(std::vector<NamedGpuKernel>{{"kernel", k, s}}, gpu_target(80)); };
  CHECK(contains(refusal(generate), "cannot be written"));
  CHECK(contains(refusal([] { gpu_target(75); }), "8.0"));
  CHECK(gpu_target(120) == gpu_target(90));
}

}  // namespace
}  // namespace sinter
