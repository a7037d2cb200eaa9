#define SINTER_DEVICE_EMULATION
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <set>

#include "backends/cuda/kernels/test_product_cases.h"
#include "backends/cuda/kernels/test_targets.h"
#include "backends/cuda/kernels/test_tensor_map.h"
#include "backends/cuda/kernels/tile_doubled_128_bf16.device.cpp"
#include "backends/cuda/kernels/tile_doubled_128_f16.device.cpp"
#include "backends/cuda/kernels/tile_shortcut_128_bf16.device.cpp"
#include "backends/cuda/kernels/tile_shortcut_128_f16.device.cpp"
#include "backends/cuda/kernels/tile_shortcut_160_bf16.device.cpp"
#include "backends/cuda/kernels/tile_shortcut_160_f16.device.cpp"
#include "backends/cuda/kernels/tile_shortcut_80_bf16.device.cpp"
#include "backends/cuda/kernels/tile_shortcut_80_f16.device.cpp"
#include "backends/cuda/kernels/tile_window.h"
#include "backends/cuda/kernels/tile_window_128_bf16.device.cpp"
#include "backends/cuda/kernels/tile_window_128_f16.device.cpp"
#include "backends/cuda/kernels/tile_window_160_bf16.device.cpp"
#include "backends/cuda/kernels/tile_window_160_f16.device.cpp"
#include "backends/cuda/kernels/tile_window_80_bf16.device.cpp"
#include "backends/cuda/kernels/tile_window_80_f16.device.cpp"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

TEST_CASE("tiles of a window are all pixels of the result once, and no others") {
  struct Size {
    int64_t n, h, w;
  };
  for (Size s : {Size{1, 1, 1}, Size{2, 8, 8}, Size{3, 9, 23}, Size{2, 40, 130}, Size{130, 1, 1}}) {
    const TileWindow made = tile_window_without_maps(window(s.n, s.h, s.w, 64, 160), 0, 132);
    const device::WindowRows rows{{made.window}};
    std::set<int> seen;
    int written = 0;
    for (int row = 0; row < made.product.m + device::kTileRows; ++row) {
      const int first = row / device::kTileRows * device::kTileRows;
      if (const int pixel = rows.out_row(rows.tile(first), row - first); pixel >= 0) seen.insert(pixel), ++written;
    }
    CHECK(written == s.n * s.h * s.w);
    CHECK(int(seen.size()) == written);
    CHECK(*seen.rbegin() == written - 1);
  }
}

TEST_CASE("tiles of a window to twice the size are all pixels of the result once, and no others") {
  for (int64_t n : {1, 3})
    for (int64_t h : {1, 9, 40}) {
      const TileWindow made = tile_window_without_maps(doubled(window(n, h, 23, 64, 160)), 1, 132);
      const device::DoubledRows rows{{made.window}};
      std::set<int> seen;
      int written = 0;
      for (int row = 0; row < made.product.m; ++row) {
        const int first = row / device::kTileRows * device::kTileRows;
        if (const int pixel = rows.out_row(rows.tile(first), row - first); pixel >= 0) seen.insert(pixel), ++written;
        const auto tile = rows.tile(first), neighbour = rows.tile(first / 256 * 256);
        CHECK(tile.place.odd_x == neighbour.place.odd_x);  // pairs share their filters
        CHECK(tile.place.odd_y == neighbour.place.odd_y);
      }
      CHECK(written == n * 2 * h * 2 * 23);
      CHECK(int(seen.size()) == written);
      CHECK(*seen.rbegin() == written - 1);
    }
}

TEST_CASE("the steps of a window are all its taps for all channels once, and the pixels of a part hold what its taps need") {
  struct Window {
    int h, w, stride;
  };
  for (Window k : {Window{3, 3, 1}, Window{1, 1, 1}, Window{2, 2, 1}, Window{7, 4, 1}, Window{3, 3, 2}, Window{5, 8, 2},
                   Window{1, 2, 3}, Window{2, 9, 4}}) {
    CAPTURE(k.h);
    CAPTURE(k.w);
    CAPTURE(k.stride);
    const TileWindow made = tile_window_without_maps(sized(window(1, 40, 40, 72, 160), k.h, k.w, k.stride), 0, 132);
    const device::WindowSteps order{made.window, made.window.part};
    device::WindowStep step = device::first_step(order);
    device::WindowBox box = order.first_box();
    std::set<std::array<int, 3>> seen;
    int parts = 0;
    const int steps = made.product.k / device::kTileDepth;
    REQUIRE(steps == 2 * k.h * k.w);
    for (int i = 0; i < steps; ++i, device::advance(order, step)) {
      if (step.x == 0 && step.y == 0) {
        if (parts++) order.advance(box);
        CHECK(step.box.channel == box.channel);
        CHECK(step.box.number == box.number);
      }
      CHECK(step.is_last() == (step.x + 1 == box.part.width && step.y + 1 == box.part.height));
      CHECK(step.tap_x(made.window) < k.w);
      CHECK(step.tap_y(made.window) < k.h);
      seen.insert({step.box.channel, step.tap_y(made.window), step.tap_x(made.window)});
      // The last pixel of a patch is in the box.
      CHECK(step.x + device::kPatchSide <= made.window.pitch);
      CHECK((step.y + device::kPatchSide) * made.window.pitch * 128 <= made.window.patch_bytes);
    }
    CHECK(int(seen.size()) == steps);
    CHECK(parts == made.window.tile_parts);
    CHECK(step.box.channel == 128);
  }
}

TEST_CASE("a 3 x 3 window's pixels come once for nine steps, and as many boxes fit as its form has room for") {
  for (int form : tile_window_forms(false)) {
    const TileWindow made = tile_window_without_maps(window(2, 64, 64, 320, 320), form, 132);
    CHECK(made.window.tile_parts == 5);
    CHECK(made.product.k / device::kTileDepth == 45);
    CHECK(made.window.patch_bytes == 10 * 10 * 128);
    CHECK(made.window.slots >= 2);
    CHECK(made.window.slots * 2 * made.window.patch_bytes <= window_forms()[size_t(form)].pixel_bytes());
    CHECK(made.shape.shared_bytes <= 227 * 1024);
  }
}

TEST_CASE("tile windows say why they cannot do a convolution") {
  const TileWindowCall good = window(2, 64, 64, 320, 320);
  CHECK(why_no_tile_window(good, hopper()) == "");
  const auto refused = refusals<TileWindowCall>(good, why_no_tile_window);
  refused([](auto& c, auto&) { c.c = 4; }, "4");
  refused([](auto& c, auto&) { c.out_c = 4; }, "4");
  refused([](auto& c, auto&) { c.stride = 9; }, "9 pixels apart");
  refused([](auto& c, auto&) { c.kernel_h = c.kernel_w = c.stride = 5; }, "5 x 5");
  refused([](auto& c, auto&) { c.type = DType::f32; }, "f32");
  refused([](auto& c, auto&) { c.residual = 8; }, "16 bytes");
  refused([](auto&, auto& d) { d.capability_major = 8; }, "capability 9.0");
}

TEST_CASE("a window's share of the device counts pixels, channels and rounds that are not full") {
  CHECK(tile_share(window(2, 64, 64, 320, 320), 0, 132) == doctest::Approx(64.0 / 66));
  CHECK(tile_share(window(2, 64, 64, 320, 320), 1, 132) == doctest::Approx(96.0 / 132 * 320 / 384));
  CHECK(tile_share(window(2, 60, 64, 320, 320), 0, 132) == doctest::Approx(60.0 / 66));
  CHECK(tile_share(window(2, 64, 64, 32, 320), 0, 132) == doctest::Approx(32.0 / 66));
}

TEST_CASE("the form of a window is the one whose tiles fill the device, the widest of such") {
  auto columns = [](const TileWindowCall& call) { return window_forms()[size_t(best_tile_form(call, 132))].columns; };
  CHECK(columns(window(2, 64, 64, 320, 320)) == 160);
  CHECK(columns(window(2, 32, 32, 640, 640)) == 80);
  CHECK(columns(window(1, 128, 128, 512, 512)) == 128);
  CHECK(columns(doubled(window(2, 32, 32, 1280, 1280))) == 128);
}

void check_window(TestTarget& target, const TileWindowCall& call, int form, bool bias, bool adds, bool in_place = false) {
  CAPTURE(tile_window_module(form, call.type, call.kind()));
  check_convolution(target, call, bias, adds, in_place, [&](const TileWindowCall& c) {
    if (!target.emulated()) return tile_window(c, form, target.multiprocessors());
    TileWindow made = tile_window_without_maps(c, form, 2);  // one pair of blocks makes all tiles
    describe_for_emulation(made, c.early_weights);
    return made;
  });
}

/// Makes windows of one type: each form is tested with one.
auto windows_for(int form) {
  return [form](int64_t n, int64_t h, int64_t w, int64_t c, int64_t out_c) {
    TileWindowCall call = window(n, h, w, c, out_c);
    call.type = form ? DType::bf16 : DType::f16;
    return call;
  };
}

TEST_CASE("emulated windows agree with sums in double") {
  for (int form : tile_window_forms(false)) {
    EmulatedTarget target;
    const auto picture = windows_for(form);
    check_window(target, picture(2, 8, 8, 64, 168), form, true, true);
    check_window(target, picture(1, 13, 11, 72, 40), form, true, false);                                    // boxes overhang
    check_window(target, padded(sized(picture(2, 9, 7, 40, 24), 2, 2, 1), 0, 1, 1, 0), form, false, true);  // and channels
    check_window(target, padded(sized(picture(1, 5, 30, 128, 16), 1, 1, 1), 0, 0, 0, 0), form, true, true, true);
    check_window(target, padded(sized(picture(1, 12, 9, 8, 320), 3, 2, 1), 1, 0, 0, 0), form, false, false);
    check_window(target, sized(picture(2, 17, 12, 64, 8), 3, 3, 2), form, true, true);
    check_window(target, padded(sized(picture(1, 16, 16, 64, 8), 3, 3, 2), 0, 1, 0, 1), form, true, false);
    check_window(target, picture(3, 8, 8, 136, 88), form, true, true);  // patches of two pictures in a tile, none in the last
    check_window(target, picture(1, 8, 24, 72, 16), form, false, false);
    check_window(target, padded(sized(picture(1, 9, 10, 72, 16), 5, 4, 1), 2, 2, 1, 2), form, true, false);  // parts
    check_window(target, padded(sized(picture(1, 20, 18, 72, 24), 3, 8, 2), 1, 1, 3, 3), form, false, true);
    check_window(target, padded(sized(picture(2, 7, 10, 16, 8), 1, 2, 3), 0, 0, 0, 1), form, false, false);
  }
}

TEST_CASE("emulated windows with a shortcut agree with sums in double") {
  for (int form : tile_window_forms(false)) {
    EmulatedTarget target;
    const auto picture = windows_for(form);
    check_window(target, with_shortcut(picture(2, 8, 8, 64, 168), 64), form, true, true);
    check_window(target, with_shortcut(picture(1, 13, 11, 72, 40), 136, 200), form, true, false);  // overhang; a part of rows
    check_window(target, with_shortcut(picture(3, 8, 8, 8, 328), 8), form, false, false);          // tiles, one behind the other
    check_window(target, with_shortcut(picture(1, 17, 12, 136, 88), 320), form, true, true, true);
    check_window(target, with_shortcut(sized(picture(2, 17, 12, 64, 8), 3, 3, 2), 72), form, true, false);
    check_window(target, with_shortcut(padded(sized(picture(1, 9, 10, 72, 16), 5, 4, 1), 2, 2, 1, 2), 192), form, true, false);
    check_window(target, with_shortcut(padded(sized(picture(1, 5, 30, 128, 16), 1, 1, 1), 0, 0, 0, 0), 448), form, false, true);
  }
}

TEST_CASE("a shortcut's steps come behind the window's, all its channels once, in slots that are even in number") {
  for (int64_t c : {64, 72, 320})
    for (int64_t more : {8, 64, 72, 192, 960}) {
      CAPTURE(c);
      CAPTURE(more);
      const TileWindow made = tile_window_without_maps(with_shortcut(window(1, 40, 40, c, 160), more), 0, 132);
      REQUIRE(made.shortcut);
      const device::ShortcutSteps order{{made.window, made.window.part}, made.shortcut->arguments};
      device::WindowStep step = device::first_step(order);
      device::WindowBox box = order.first_box();
      const int64_t own = 9 * ((c + 63) / 64), steps = made.product.k / device::kTileDepth;
      REQUIRE(steps == own + (more + 63) / 64);
      int parts = 0, slots = 0;
      for (int64_t i = 0; i < steps; ++i, device::advance(order, step)) {
        if (step.x == 0 && step.y == 0) {
          if (parts++) order.advance(box);
          CHECK(box.channel == step.box.channel);
          CHECK(box.part.width == step.box.part.width);
          // What takes two slots begins at an even one, so they lie side by side.
          CHECK((slots % 2 == 0 || !order.takes_two_slots(box)));
          slots += order.takes_two_slots(box) ? 2 : 1;
        }
        CHECK(made.shortcut->arguments.has(step.box.channel) == (i >= own));
        if (i < own) continue;
        CHECK(step.box.channel - made.shortcut->arguments.from == (i - own) * 64);
        CHECK(step.is_last());
      }
      CHECK(parts == made.window.tile_parts);
      CHECK(slots == made.shortcut->arguments.tile_slots);
      CHECK(slots % 2 == 0);
    }
  for (int form : tile_window_forms(false)) {
    const TileWindow made = tile_window_without_maps(with_shortcut(window(2, 64, 64, 320, 320), 640), form, 132);
    CHECK(made.window.slots >= 4);
    CHECK(made.window.slots % 2 == 0);
    CHECK(made.window.slots * device::kShortcutSlotBytes <= window_forms()[size_t(form)].pixel_bytes());
    CHECK(2 * made.window.patch_bytes <= 2 * device::kShortcutSlotBytes);
    const std::string module = made.kernel.substr(0, made.kernel.find("__")) + " (sm_90a)";
    CHECK(Kernels::all_ptx().at(module).find(".entry " + made.kernel + "(") != std::string_view::npos);
  }
}

TEST_CASE("shortcuts say why they cannot be") {
  const TileWindowCall good = with_shortcut(window(2, 64, 64, 320, 320), 640);
  CHECK(why_no_tile_window(good, hopper()) == "");
  const auto refused = refusals<TileWindowCall>(good, why_no_tile_window);
  refused([](auto& c, auto&) { c.shortcut.c = 20; }, "20");
  refused([](auto& c, auto&) { c.shortcut.in = 8; }, "16 bytes");
  refused([](auto& c, auto&) { c.shortcut.pixel_stride = 644; }, "16 bytes");
  refused([](auto& c, auto&) { c.doubles = true; }, "twice the size");
}

/// Null where there is no such device, after saying so.
TestDevice* hopper_device() {
  return test_device_that([](const DeviceInfo& device) { return why_no_tile_window(window(2, 8, 8, 64, 64), device); });
}

TEST_CASE("emulated windows to twice the size agree with sums in double") {
  for (DType type : {DType::bf16, DType::f16}) {
    EmulatedTarget target;
    TileWindowCall call = doubled(window(2, 5, 3, 72, 136));
    call.type = type;
    const int form = tile_window_forms(true).front();
    check_window(target, call, form, true, true);
    call.n = 1, call.h = 17, call.w = 9, call.c = 24, call.out_c = 72;
    check_window(target, call, form, false, false);
    call.h = call.w = 1;
    check_window(target, call, form, true, false);
  }
}

TEST_CASE("windows of every form, type, padding and stride agree with sums in double") {
  TestDevice* device = hopper_device();
  if (!device) return;
  for (int form : tile_window_forms(false))
    for (DType type : {DType::bf16, DType::f16})
      for (int64_t c : {8, 64, 72}) {
        DeviceTarget target(*device);
        TileWindowCall call = window(2, 19, 21, c, 328);
        call.type = type;
        check_window(target, padded(sized(call, 5, 4, 1), 2, 2, 1, 2), form, true, false);
        check_window(target, padded(sized(call, 3, 8, 2), 1, 1, 3, 3), form, false, true);
        check_window(target, padded(sized(call, 1, 2, 3), 0, 0, 0, 1), form, true, false);
        check_window(target, call, form, true, true);
        check_window(target, call, form, false, false);
        check_window(target, call, form, true, true, true);
        check_window(target, padded(sized(call, 1, 1, 1), 0, 0, 0, 0), form, true, false);
        check_window(target, padded(sized(call, 2, 2, 1), 1, 0, 0, 1), form, true, true);
        check_window(target, sized(call, 3, 3, 2), form, true, true);
        check_window(target, padded(sized(call, 3, 3, 2), 0, 1, 0, 1), form, true, false);
        call.n = 1, call.h = 1, call.w = 1;
        check_window(target, call, form, true, true);
        for (int64_t size : {8, 16, 24, 40, 64}) {
          call.n = 3, call.h = size > 24 ? 9 : size, call.w = size;
          check_window(target, call, form, true, false);
        }
      }
  for (DType type : {DType::bf16, DType::f16})
    for (int64_t c : {8, 64, 72})
      for (int64_t h : {1, 9, 21}) {
        DeviceTarget target(*device);
        TileWindowCall call = doubled(window(2, h, 13, c, 328));
        call.type = type;
        check_window(target, call, tile_window_forms(true).front(), true, true);
        check_window(target, call, tile_window_forms(true).front(), false, false);
      }
}

TEST_CASE("windows with a shortcut, of every form and type, agree with sums in double") {
  TestDevice* device = hopper_device();
  if (!device) return;
  for (int form : tile_window_forms(false))
    for (DType type : {DType::bf16, DType::f16})
      for (int64_t c : {8, 136, 960}) {
        DeviceTarget target(*device);
        TileWindowCall call = with_shortcut(window(2, 19, 21, 72, 328), c);
        call.type = type;
        check_window(target, call, form, true, true);
        check_window(target, with_shortcut(call, c, c + 64), form, false, false);
        check_window(target, sized(call, 3, 3, 2), form, true, false);
        check_window(target, padded(sized(call, 5, 4, 1), 2, 2, 1, 2), form, true, true, true);
        call.n = call.h = call.w = 1;
        check_window(target, call, form, true, true);
        for (int64_t size : {8, 16, 40}) {
          call.n = 3, call.h = size > 24 ? 9 : size, call.w = size;
          check_window(target, call, form, true, false);
        }
      }
  for (int form : tile_window_forms(false))
    for (const TileWindowCall& call :
         {with_shortcut(window(2, 64, 64, 320, 320), 960), with_shortcut(window(2, 32, 32, 640, 640), 1920),
          with_shortcut(window(2, 16, 16, 1280, 1280), 640)}) {
      DeviceTarget target(*device);
      check_window(target, call, form, true, false);
    }
}

TEST_CASE("windows of the size of Stable Diffusion's, more tiles than blocks, are right") {
  TestDevice* device = hopper_device();
  if (!device) return;
  for (int form : tile_window_forms(false))
    for (const TileWindowCall& call :
         {window(2, 64, 64, 320, 320), window(2, 32, 32, 1920, 640), window(2, 16, 16, 1280, 1280), window(2, 8, 8, 2560, 1280),
          window(1, 256, 256, 128, 128), window(2, 104, 76, 640, 640)}) {
      DeviceTarget target(*device);
      check_window(target, call, form, true, true);
    }
}

}  // namespace
}  // namespace sinter::cuda
