#include "backends/cuda/kernels/kernels.h"

#include <doctest/doctest.h>

#include <atomic>

#include "backends/cuda/test_device.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

TEST_CASE("a kernel that was begun is compiled once and alone, and one that failed is compiled again") {
  TestDevice* device = test_device();
  if (!device) return;
  std::atomic<int> compiles = 0;
  bool fails = false;
  Kernels kernels(device->context, [&](const Context& context, std::string_view ptx, std::string_view name) {
    ++compiles;
    if (fails) fail(Code::OutOfMemory, "no memory for {}", name);
    return Module(context, compile_ptx(context, ptx, name), name);
  });
  for (int i = 0; i < 3; ++i) kernels.begin_kernel("elements__cast");
  CHECK(kernels.function("elements__cast").registers() > 0);
  CHECK(compiles == 1);

  fails = true;
  kernels.begin_kernel("elements__normals");
  CHECK_THROWS_WITH_AS(kernels.function("elements__normals"), doctest::Contains("no memory for elements__normals"), Error);
  fails = false;
  CHECK(kernels.function("elements__normals").registers() > 0);
  CHECK(compiles == 3);
  kernels.begin_module("elements");
  CHECK(kernels.function("elements__gate_rows").registers() > 0);
  CHECK_THROWS_AS(kernels.function("elements__no_such_kernel"), Error);
}

}  // namespace
}  // namespace sinter::cuda
