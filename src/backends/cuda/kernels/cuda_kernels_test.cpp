#include "backends/cuda/kernels/kernels.h"

#include <doctest/doctest.h>

#include <atomic>

#include "backends/cuda/test_device.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

TEST_CASE("a module that was begun is compiled once, and one that failed is compiled again") {
  TestDevice* device = test_device();
  if (!device) return;
  std::atomic<int> compiles = 0;
  bool fails = false;
  Kernels kernels(device->context, [&](const Context& context, std::string_view ptx, std::string_view name) {
    ++compiles;
    if (fails) fail(Code::OutOfMemory, "no memory for {}", name);
    return Module(context, compile_ptx(context, ptx, name), name);
  });
  for (int i = 0; i < 3; ++i) kernels.begin("elements");
  kernels.load("elements");
  CHECK(kernels.function("elements__cast").registers() > 0);
  CHECK(compiles == 1);

  fails = true;
  kernels.begin("group_stats");
  CHECK_THROWS_WITH_AS(kernels.load("group_stats"), doctest::Contains("no memory for group_stats"), Error);
  fails = false;
  kernels.load("group_stats");
  CHECK(compiles == 3);
}

}  // namespace
}  // namespace sinter::cuda
