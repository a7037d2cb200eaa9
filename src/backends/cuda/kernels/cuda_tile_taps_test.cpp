#define SINTER_DEVICE_EMULATION
#include <doctest/doctest.h>

#include <array>
#include <set>

#include "backends/cuda/kernels/test_product_cases.h"
#include "backends/cuda/kernels/test_targets.h"
#include "backends/cuda/kernels/test_tensor_map.h"
#include "backends/cuda/kernels/tile_taps.h"
#include "backends/cuda/kernels/tile_taps_128_bf16.device.cpp"
#include "backends/cuda/kernels/tile_taps_128_f16.device.cpp"
#include "backends/cuda/kernels/tile_taps_160_bf16.device.cpp"
#include "backends/cuda/kernels/tile_taps_160_f16.device.cpp"

namespace sinter::cuda {
namespace {

TEST_CASE("tile taps say why they cannot do a convolution") {
  const TileWindowCall good = window(2, 28, 36, 1280, 1280);
  CHECK(why_no_tile_taps(good, hopper()) == "");
  const auto refused = refusals<TileWindowCall>(good, why_no_tile_taps);
  refused([](auto& c, auto&) { c.c = 4; }, "4");
  refused([](auto& c, auto&) { c.out_c = 4; }, "4");
  refused([](auto& c, auto&) { c.stride = 9; }, "9 pixels apart");
  refused([](auto& c, auto&) { c.kernel_w = 65; }, "3 x 65");
  refused([](auto& c, auto&) { c.left = 65; }, "padding");
  refused([](auto& c, auto&) { c.doubles = true; }, "twice the size");
  refused([](auto& c, auto&) { c.shortcut.c = 64; }, "shortcuts");
  refused([](auto& c, auto&) { c.type = DType::f32; }, "f32");
  refused([](auto& c, auto&) { c.residual = 8; }, "16 bytes");
  refused([](auto&, auto& d) { d.capability_major = 8; }, "capability 9.0");
}

TEST_CASE("tile taps' share of the device counts pixels, columns, channels and rounds, but not the width of pictures") {
  constexpr int k160 = 0, k128 = 1;
  CHECK(tile_taps_share(window(2, 28, 36, 1280, 1280), k160, 132) == doctest::Approx(2016 / 2048.0 * 64 / 66));
  CHECK(tile_taps_share(window(2, 36, 28, 1280, 1280), k160, 132) == doctest::Approx(2016 / 2048.0 * 64 / 66));
  CHECK(tile_taps_share(window(2, 28, 36, 1280, 1280), k128, 132) == doctest::Approx(2016 / 2048.0 * 80 / 132));
  CHECK(tile_taps_share(window(2, 28, 36, 72, 1280), k160, 132) == doctest::Approx(2016 / 2048.0 * 64 / 66 * 72 / 128));
}

TEST_CASE("the steps of tile taps are all taps for all channels once, in the order of the filters' memory") {
  for (int64_t c : {64, 72, 320})
    for (auto [kernel_h, kernel_w] : {std::array<int, 2>{3, 3}, {1, 1}, {2, 5}, {7, 4}}) {
      const TileTaps made = tile_taps_without_maps(sized(window(1, 40, 40, c, 160), kernel_h, kernel_w, 1), 0, 132);
      const device::TapOperands operands{{made.taps}};
      const int64_t chunks = (c + 63) / 64;
      int count = 0;
      for (auto step = operands.first_step(); step < made.product.k / device::kTileDepth; ++step, ++count) {
        CHECK(step == count);
        CHECK(step.at.channel == count % chunks * 64);
        CHECK(step.at.tap == count / chunks);
        CHECK(step.at.y * kernel_w + step.at.x == step.at.tap);
        CHECK(step.at.x < kernel_w);
      }
      CHECK(count == kernel_h * kernel_w * chunks);
    }
}

TEST_CASE("tiles of tile taps begin where the windows of their first pixels do, those behind the last one at the last") {
  const TileWindowCall call = padded(sized(window(3, 23, 37, 64, 160), 3, 5, 2), 1, 0, 2, 1);
  const TileTaps made = tile_taps_without_maps(call, 0, 132);
  const device::TapOperands operands{{made.taps}};
  const PixelColumns& p = made.operands.a;
  for (int row = 0; row < made.product.m + 2 * device::kTileRows; ++row) {
    const auto place = operands.place(row);
    const int64_t pixel = std::min<int64_t>(row, call.n * call.out_h() * call.out_w() - 1);
    CHECK(place.x == pixel % call.out_w() * 2 - 2);
    CHECK(place.y == pixel / call.out_w() % call.out_h() * 2 - 1);
    CHECK(place.picture == pixel / (call.out_w() * call.out_h()));
    CHECK(place.x >= p.first.x);
    CHECK(place.x < p.w + p.last.x);
    CHECK(place.y < p.h + p.last.y);
  }
  // No other window begins within the corners.
  CHECK((p.w + p.last.x - 1 - p.first.x) / 2 + 1 == call.out_w());
  CHECK((p.h + p.last.y - 1 - p.first.y) / 2 + 1 == call.out_h());
}

void check_taps(TestTarget& target, const TileWindowCall& call, int form, bool bias, bool adds, bool in_place = false) {
  CAPTURE(tile_taps_module(form, call.type));
  check_convolution(target, call, bias, adds, in_place, [&](const TileWindowCall& c) {
    if (!target.emulated()) return tile_taps(c, form, target.multiprocessors());
    TileTaps made = tile_taps_without_maps(c, form, 2);  // one pair of blocks makes all tiles
    describe_for_emulation(made.operands, c.early_weights);
    return made;
  });
}

TileWindowCall of_type(TileWindowCall call, DType type) {
  call.type = type;
  return call;
}

TEST_CASE("emulated tile taps agree with sums in double") {
  for (int form : tile_taps_forms())
    for (DType type : {DType::bf16, DType::f16}) {
      EmulatedTarget target;
      auto picture = [&](int64_t n, int64_t h, int64_t w, int64_t c, int64_t out_c) {
        return of_type(window(n, h, w, c, out_c), type);
      };
      check_taps(target, picture(1, 3, 5, 64, 16), form, true, true);      // fewer pixels than a tile
      check_taps(target, picture(2, 14, 18, 64, 168), form, true, true);   // tiles of two pictures, and of columns
      check_taps(target, picture(1, 13, 11, 72, 40), form, true, false);   // channels overhang
      check_taps(target, picture(1, 16, 8, 136, 24), form, false, false);  // a tile wholly behind the last pixel
      check_taps(target, picture(3, 7, 9, 8, 8), form, true, true, true);  // in place
      if (type == DType::f16) continue;
      check_taps(target, picture(130, 1, 1, 16, 8), form, true, false);  // more pictures than rows
      check_taps(target, padded(sized(picture(2, 9, 7, 40, 24), 2, 2, 1), 0, 1, 1, 0), form, false, true);
      check_taps(target, padded(sized(picture(1, 5, 30, 128, 16), 1, 1, 1), 0, 0, 0, 0), form, true, true);
      check_taps(target, padded(sized(picture(1, 9, 10, 72, 16), 5, 4, 1), 2, 2, 1, 2), form, true, false);
      check_taps(target, padded(sized(picture(1, 6, 20, 8, 16), 1, 8, 1), 0, 0, 3, 4), form, true, false);  // not as high as wide
      check_taps(target, sized(picture(2, 17, 12, 64, 8), 3, 3, 2), form, true, true);
      check_taps(target, padded(sized(picture(1, 16, 16, 64, 8), 3, 3, 2), 0, 1, 0, 1), form, true, false);
      check_taps(target, padded(sized(picture(2, 7, 10, 16, 8), 1, 2, 3), 0, 0, 0, 1), form, false, false);
    }
}

TEST_CASE("modules of tile taps hold the kernels that are launched") {
  for (int form : tile_taps_forms())
    for (DType type : {DType::bf16, DType::f16}) {
      const TileTaps made = tile_taps_without_maps(of_type(window(2, 28, 36, 64, 320), type), form, 132);
      const std::string_view ptx = Kernels::all_ptx().at(tile_taps_module(form, type) + " (sm_90a)");
      CHECK(ptx.find(".entry " + made.kernel + "(") != ptx.npos);
      CHECK(ptx.find(".im2col") != ptx.npos);
    }
}

/// Null where there is no such device, after saying so.
TestDevice* hopper_device() {
  return test_device_that([](const DeviceInfo& device) { return why_no_tile_taps(window(2, 8, 8, 64, 64), device); });
}

// What the emulation only assumes of the copying unit shows here first: windows whose corners differ along the axes, and pixels
// behind the last picture.
TEST_CASE("tile taps of every form, type, padding and stride agree with sums in double") {
  TestDevice* device = hopper_device();
  if (!device) return;
  for (int form : tile_taps_forms())
    for (DType type : {DType::bf16, DType::f16})
      for (int64_t c : {8, 64, 72}) {
        DeviceTarget target(*device);
        const TileWindowCall call = of_type(window(2, 19, 21, c, 328), type);
        check_taps(target, call, form, true, true);
        check_taps(target, call, form, false, false);
        check_taps(target, call, form, true, true, true);
        check_taps(target, padded(sized(call, 1, 1, 1), 0, 0, 0, 0), form, true, false);
        check_taps(target, padded(sized(call, 2, 2, 1), 1, 0, 0, 1), form, true, true);
        check_taps(target, padded(sized(call, 5, 4, 1), 2, 2, 1, 2), form, true, false);
        check_taps(target, padded(sized(call, 1, 8, 1), 0, 0, 3, 4), form, true, false);
        check_taps(target, sized(call, 3, 3, 2), form, true, true);
        check_taps(target, padded(sized(call, 3, 3, 2), 0, 1, 0, 1), form, true, false);
        check_taps(target, padded(sized(call, 3, 8, 2), 1, 1, 3, 3), form, false, true);
        check_taps(target, padded(sized(call, 1, 2, 3), 0, 0, 0, 1), form, true, false);
        for (auto [n, h, w] : {std::array<int64_t, 3>{1, 1, 1}, {1, 16, 8}, {130, 1, 1}, {3, 9, 40}, {5, 7, 9}})
          check_taps(target, of_type(window(n, h, w, c, 328), type), form, true, true);
      }
}

TEST_CASE("tile taps of the size of Stable Diffusion's, pictures that are not square, are right") {
  TestDevice* device = hopper_device();
  if (!device) return;
  for (int form : tile_taps_forms())
    for (const TileWindowCall& call : {window(2, 28, 36, 1280, 1280), window(2, 36, 28, 640, 1280), window(2, 14, 18, 1280, 1280),
                                       window(2, 56, 72, 640, 640), window(2, 104, 76, 640, 640)}) {
      DeviceTarget target(*device);
      check_taps(target, call, form, true, true);
    }
}

}  // namespace
}  // namespace sinter::cuda
