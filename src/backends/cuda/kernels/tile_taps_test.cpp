// What the driver describes to the copying unit, as the made-up one of tests/fake_cuda refuses it.
#include "backends/cuda/kernels/tile_taps.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "made_up_driver.h"

namespace sinter::cuda {
namespace {

/// Square windows, padded by so much on all sides, of pictures [2, 28, 36, 1280].
bool is_described(int64_t kernel, int64_t stride, int64_t padding) {
  TileWindowCall call{
      .n = 2, .h = 28, .w = 36, .c = 1280, .out_c = 1280, .kernel_h = kernel, .kernel_w = kernel, .stride = stride};
  call.top = call.bottom = call.left = call.right = padding;
  call.in = call.filters = call.out = 4096;
  try {
    return tile_taps(call, 0, 132).shape.grid.x > 0;
  } catch (const Error&) {
    return false;
  }
}

TEST_CASE("made-up driver: maps of tile taps" * doctest::skip()) {
  CHECK(is_described(3, 1, 1));
  CHECK(is_described(64, 8, 64));
  CHECK(is_described(1, 1, 0));
  CHECK(!is_described(3, 9, 1));
  CHECK(!is_described(300, 1, 150));
}

TEST_CASE("the largest windows that tile taps make are within what the driver describes, larger ones are not") {
  run_on_made_up_driver("", "made-up driver: maps of tile taps");
}

}  // namespace
}  // namespace sinter::cuda
