// Fixed kernels on the made-up driver of tests/fake_cuda: a process of its own, since a process opens a driver once.
#include "backends/cuda/kernels/kernels.h"

#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "backends/cuda/kernels/ptx_text.h"
#include "base/error.h"
#include "made_up_driver.h"

namespace sinter::cuda {
namespace {

TEST_CASE("made-up driver: kernels" * doctest::skip()) {
  const Context context(1);
  std::mutex mutex;
  std::map<std::string, int> compiled;
  std::atomic<bool> fails = false;
  Kernels kernels(context, [&](const Context& c, std::string_view ptx, std::string_view name) {
    {
      std::lock_guard lock(mutex);
      ++compiled[std::string(name)];
    }
    CHECK(kernels_of(ptx) == std::vector{name});
    if (fails) fail(Code::OutOfMemory, "no memory for {}", name);
    return Module(c, compile_ptx(c, ptx, name), name);
  });

  // Each alone, and once however often and by whomever it is asked for.
  for (int i = 0; i < 3; ++i) kernels.begin_kernel("elements__cast");
  kernels.function("elements__cast"), kernels.function("elements__cast");
  CHECK(compiled == std::map<std::string, int>{{"elements__cast", 1}});

  ForeseenKernels foreseen(kernels);
  foreseen("elements__normals", LaunchShape{}, 0);
  kernels.function("elements__normals");
  CHECK(compiled.size() == 2);

  const auto all = kernels_of(Kernels::ptx("group_norm", context.device()));
  kernels.begin_module("group_norm");
  for (std::string_view kernel : all) kernels.function(kernel);
  CHECK(compiled.size() == 2 + all.size());

  // What fails is told to whoever asks, and tried again.
  fails = true;
  kernels.begin_kernel("elements__gate_rows");
  CHECK_THROWS_WITH_AS(kernels.function("elements__gate_rows"), doctest::Contains("no memory for elements__gate_rows"), Error);
  fails = false;
  kernels.function("elements__gate_rows");
  CHECK(compiled.at("elements__gate_rows") == 2);
  CHECK_THROWS_AS(kernels.function("elements__no_such_kernel"), Error);
}

TEST_CASE("made-up driver: kernels that nobody waits for" * doctest::skip()) {
  const Context context(1);
  std::atomic<int> compiled = 0, begun = 0;
  {
    Kernels kernels(context, [&](const Context& c, std::string_view ptx, std::string_view name) {
      ++compiled;
      std::this_thread::sleep_for(std::chrono::milliseconds(300));
      return Module(c, compile_ptx(c, ptx, name), name);
    });
    for (const char* module : {"group_stats", "group_norm", "elements", "gemm", "attention"})
      for (std::string_view kernel : kernels_of(Kernels::ptx(module, context.device()))) kernels.begin_kernel(kernel), ++begun;
  }
  const int at_once = std::max(2, int(std::thread::hardware_concurrency()));
  if (begun <= at_once) MESSAGE("skipped: here all kernels have their turn at once");
  CHECK(compiled <= at_once);
}

TEST_CASE("kernels that were begun and have not had their turn are given up in the end") {
  run_on_made_up_driver("FAKE_CUDA_VERSION=13000", "made-up driver: kernels that nobody waits for");
}

TEST_CASE("each kernel is compiled alone and once, when it is begun or asked for, and again where that failed") {
  run_on_made_up_driver("FAKE_CUDA_VERSION=13000", "made-up driver: kernels");
}

}  // namespace
}  // namespace sinter::cuda
