#define SINTER_DEVICE_EMULATION
#include <doctest/doctest.h>

#include <set>

#include "backends/cuda/kernels/split_doubled_192x4_bf16.device.cpp"
#include "backends/cuda/kernels/split_doubled_192x4_f16.device.cpp"
#include "backends/cuda/kernels/split_product.h"
#include "backends/cuda/kernels/split_product_192x4_bf16.device.cpp"
#include "backends/cuda/kernels/split_product_192x4_f16.device.cpp"
#include "backends/cuda/kernels/split_product_64x4_bf16.device.cpp"
#include "backends/cuda/kernels/split_product_64x4_f16.device.cpp"
#include "backends/cuda/kernels/split_product_80x6_bf16.device.cpp"
#include "backends/cuda/kernels/split_product_80x6_f16.device.cpp"
#include "backends/cuda/kernels/split_shortcut_192x4_bf16.device.cpp"
#include "backends/cuda/kernels/split_shortcut_192x4_f16.device.cpp"
#include "backends/cuda/kernels/split_shortcut_64x4_bf16.device.cpp"
#include "backends/cuda/kernels/split_shortcut_64x4_f16.device.cpp"
#include "backends/cuda/kernels/split_shortcut_80x6_bf16.device.cpp"
#include "backends/cuda/kernels/split_shortcut_80x6_f16.device.cpp"
#include "backends/cuda/kernels/test_product_cases.h"
#include "backends/cuda/kernels/test_tensor_map.h"

namespace sinter::cuda {
namespace {

TileProductCall product(int64_t m, int64_t n, int64_t k, DType type = DType::bf16) {
  TileProductCall call{.m = m, .n = n, .k = k, .type = type};
  call.a = call.weights = call.out = 4096;
  return call;
}
TileWindowCall strided(TileWindowCall call, int64_t stride, int64_t top, int64_t left) {
  call.stride = stride, call.top = top, call.left = left;
  return call;
}

constexpr int kDoubled = 3;  // the form

TEST_CASE("every tile of a split product fits into a block's shared memory, and so do the sums that change hands") {
  for (const SplitForm& form : split_forms()) {
    CAPTURE(form.columns);
    CAPTURE(form.parts);
    const device::SplitTile tile{form.columns, form.parts};
    CHECK(tile.stages() >= 5);
    CHECK(tile.shared_bytes() <= 227 * 1024);
    CHECK(tile.exchanged_bytes() <= tile.stages() * tile.stage_bytes());
    CHECK(tile.part_patches() * form.parts >= tile.patches());
    CHECK(form.columns % (form.doubles ? 64 : 8 * form.rows) == 0);  // pieces of the weights begin where the order of chunks does
    CHECK(form.blocks() <= 8);
  }
}

TEST_CASE("a split product has one cluster of blocks for every tile, or for several below each other") {
  for (int form = 0; form < int(split_forms().size()); ++form) {
    const SplitForm& f = split_forms()[size_t(form)];
    if (f.doubles) continue;
    for (int64_t m : {1, 128, 129, 512}) {
      const SplitProduct made = split_product_without_maps(product(m, 1288, 1280), form);
      const int64_t tiles = (m + 128 * f.rows - 1) / (128 * f.rows) * ((1288 + f.columns - 1) / f.columns);
      CHECK(made.shape.grid.x == tiles * f.blocks());
      CHECK(int(made.shape.cluster) == f.blocks());
      const std::string module = made.kernel.substr(0, made.kernel.find("__")) + " (sm_90a)";
      CHECK(Kernels::all_ptx().at(module).find(".entry " + made.kernel + "(") != std::string_view::npos);
    }
  }
}

/// Of the windows that the pixels' map lets begin somewhere.
void check_begins(const PixelColumns& of, const device::WindowTaps::Pixel& from) {
  CHECK(from.x >= of.first.x);
  CHECK(from.x < of.w + of.last.x);
  CHECK(from.y >= of.first.y);
  CHECK(from.y < of.h + of.last.y);
  CHECK((from.x - of.first.x) % of.stride == 0);
  CHECK((from.y - of.first.y) % of.stride == 0);
  CHECK(from.picture < of.n);
}
/// The results' rows that tiles write, those behind the last one included, each once and none beyond.
template <class Rows>
void check_rows(const SplitWindow& made, const Rows& rows, int tiles, int64_t pixels) {
  std::set<int> seen;
  int written = 0;
  for (int tile = 0; tile < tiles; ++tile) {
    const auto at = rows.tile(tile * device::kTileRows);
    check_begins(made.operands.a, at.from);
    for (int row = 0; row < device::kTileRows; ++row)
      if (const int pixel = rows.out_row(at, row); pixel >= 0) seen.insert(pixel), ++written;
  }
  CHECK(written == pixels);
  CHECK(int(seen.size()) == written);
  CHECK(*seen.rbegin() == written - 1);
}

TEST_CASE("tiles of a split window are consecutive pixels of the result, all of them once, and begin where windows do") {
  struct Size {
    int64_t n, h, w, stride = 1, top = 1, left = 1;
  };
  for (Size s : {Size{1, 1, 1}, Size{2, 8, 8}, Size{3, 9, 23}, Size{2, 14, 18}, Size{2, 7, 9}, Size{2, 40, 130}, Size{130, 1, 1},
                 Size{2, 14, 18, 2}, Size{3, 17, 12, 2, 0, 1}, Size{1, 11, 29, 3, 1, 0}}) {
    const TileWindowCall call = strided(window(s.n, s.h, s.w, 64, 160), s.stride, s.top, s.left);
    const SplitWindow made = split_product_without_maps(call, 0);
    const device::SplitWindowRows rows{{made.product}, {made.taps}};
    const int tiles = (made.product.m + device::kTileRows - 1) / device::kTileRows;
    check_rows(made, rows, tiles + 1, s.n * call.out_h() * call.out_w());
    for (int row = 0; row < made.product.m; row += device::kTileRows) {
      const auto tile = rows.tile(row);
      CHECK(rows.out_row(tile, 0) == row);
      CHECK(tile.from.x == row % call.out_w() * s.stride - s.left);
      CHECK(tile.from.y == row / call.out_w() % call.out_h() * s.stride - s.top);
      CHECK(tile.from.picture == row / (call.out_w() * call.out_h()));
    }
    // No other window begins within the corners.
    const PixelColumns& p = made.operands.a;
    CHECK((p.w + p.last.x - 1 - p.first.x) / p.stride + 1 == call.out_w());
    CHECK((p.h + p.last.y - 1 - p.first.y) / p.stride + 1 == call.out_h());
  }
  CHECK(split_product_without_maps(window(2, 8, 8, 64, 160), 0).shape.grid.x == 2 * 6);  // of columns, each in 6 parts
  CHECK(split_product_without_maps(window(2, 7, 9, 64, 160), 0).shape.grid.x == 2 * 6);
  CHECK(split_product_without_maps(window(2, 14, 18, 64, 160), 2).shape.grid.x == 2 * 8);  // two times two tiles
}

TEST_CASE("tiles of a split window to twice the size are all pixels of the result once, and no others") {
  for (int64_t n : {1, 3})
    for (int64_t h : {1, 7, 8, 19})
      for (int64_t w : {1, 9, 13}) {
        const SplitWindow made = split_product_without_maps(doubled(window(n, h, w, 64, 160)), kDoubled);
        CHECK(made.product.m == 4 * ((n * h * w + 127) / 128 * 128));
        check_rows(made, device::SplitDoubledRows<192>{made.product, {made.taps}}, made.product.m / device::kTileRows,
                   n * 2 * h * 2 * w);
      }
}

TEST_CASE("the steps of a split window are the same counted several at a time and begun anywhere") {
  TileWindowCall call = window(1, 8, 8, 72, 160);
  call.kernel_w = 2;
  const SplitWindow made = split_product_without_maps(call, 0);
  CHECK(made.product.k == 3 * 2 * 128);
  const device::WindowTaps taps{made.taps};
  for (int part = 0; part < 5; ++part) {
    device::WindowTaps::Step step = taps.step(part);
    for (int i = part; i < 12; i += 5, taps.advance(step, 5)) {
      CHECK(step.channel == i % 2 * 64);
      CHECK(step.tap == i / 2);
      CHECK(step.x == i / 2 % 2);
      CHECK(step.y == i / 4);
    }
  }
}

TEST_CASE("calls are split where that is of use, in the form that should be fastest first") {
  auto forms = [](const auto& call) { return split_candidates(call, hopper()); };
  CHECK(forms(window(2, 8, 8, 1280, 1280)) == std::vector<int>{0, 1});
  CHECK(forms(window(2, 8, 8, 2560, 1280)) == std::vector<int>{0, 1});
  CHECK(forms(window(2, 16, 16, 1280, 1280)) == std::vector<int>{2});
  CHECK(forms(strided(window(2, 16, 16, 1280, 1280), 2, 1, 1)) == std::vector<int>{0, 1});
  CHECK(forms(doubled(window(2, 8, 8, 1280, 1280))) == std::vector<int>{kDoubled});
  CHECK(forms(window(2, 7, 9, 1280, 1280)) == std::vector<int>{0, 1});
  CHECK(forms(window(2, 14, 18, 1280, 1280)) == std::vector<int>{2});
  CHECK(forms(strided(window(2, 14, 18, 1280, 1280), 2, 1, 1)) == std::vector<int>{0, 1});
  CHECK(forms(doubled(window(2, 7, 9, 1280, 1280))) == std::vector<int>{kDoubled});
  CHECK(forms(with_shortcut(window(2, 14, 18, 1280, 1280), 2560)) == std::vector<int>{2});
  CHECK(forms(product(128, 1280, 1280)) == std::vector<int>{1, 0});
  CHECK(forms(product(128, 1280, 64)).empty());
  CHECK(forms(product(2048, 1280, 1280)).empty());
  CHECK(forms(window(2, 64, 64, 320, 320)).empty());
  CHECK(forms(window(2, 32, 32, 1280, 1280)).empty());
  CHECK(forms(window(2, 8, 8, 1280, 320)) == std::vector<int>{0});  // no form does much
  CHECK(forms(window(2, 8, 10, 1280, 1280)) == std::vector<int>{2});
  CHECK(forms(window(2, 4, 4, 1280, 1280)) == std::vector<int>{0});
  CHECK(forms(window(1, 2, 2, 1280, 1280)).empty());
  CHECK(split_share(product(128, 1280, 1280), 0, 132) == doctest::Approx(96.0 / 132));
  CHECK(split_share(window(2, 16, 16, 1280, 1280), 2, 132) == doctest::Approx(112.0 / 132 * 1280 / (7 * 192)));
  CHECK(split_share(window(2, 14, 18, 1280, 1280), 2, 132) == doctest::Approx(112.0 / 132 * 1280 / (7 * 192) * 504 / 512));
  CHECK(split_share(doubled(window(2, 7, 9, 1280, 1280)), kDoubled, 132) ==
        doctest::Approx(112.0 / 132 * 1280 / (7 * 192) * 126 / 128));
  CHECK(split_share(product(128, 1288 + 80, 1280), 0, 132) == 0);  // 18 clusters of 6
}

TEST_CASE("modules of split products are wanted for long sums and many columns of 16 bits on the devices that have them") {
  const auto modules = split_modules(1280, 11520, DType::bf16, WindowKind::Plain, hopper());
  CHECK(modules.size() == 3);
  for (const std::string& module : modules) CHECK(Kernels::all_ptx().contains(module + " (sm_90a)"));
  CHECK(split_modules(1280, 5120, DType::f16, WindowKind::Doubles, hopper()) ==
        std::vector<std::string>{"split_doubled_192x4_f16"});
  CHECK(split_modules(320, 11520, DType::bf16, WindowKind::Plain, hopper()).empty());
  CHECK(split_modules(1280, 576, DType::bf16, WindowKind::Plain, hopper()).empty());
  CHECK(split_modules(1280, 11520, DType::f32, WindowKind::Plain, hopper()).empty());
  DeviceInfo ampere = hopper();
  ampere.capability_major = 8;
  CHECK(split_modules(1280, 11520, DType::bf16, WindowKind::Plain, ampere).empty());
  DeviceInfo old_driver = hopper();
  old_driver.cuda_version = 11080;
  CHECK(split_modules(1280, 11520, DType::bf16, WindowKind::Plain, old_driver).empty());
}

TEST_CASE("split products say why they cannot do a call") {
  const TileProductCall good = product(128, 1280, 1280);
  auto why = [](const auto& call, const DeviceInfo& device) { return why_no_split_product(call, 0, device); };
  CHECK(why(good, hopper()) == "");
  const auto refused = refusals<TileProductCall>(good, why);
  refused([](auto&, auto& d) { d.capability_major = 8; }, "capability 9.0");
  refused([](auto& c, auto&) { c.gated = true; }, "gated");
  refused([](auto& c, auto&) { c.k = 5 * 64; }, "too few for 6 parts");
  refused([](auto& c, auto&) { c.out_stride = 1284; }, "16 bytes");
  const TileWindowCall good_window = window(2, 8, 8, 1280, 1280);
  CHECK(why(good_window, hopper()) == "");
  const auto refused_window = refusals<TileWindowCall>(good_window, why);
  refused_window([](auto& c, auto&) { c.doubles = true; }, "such a size");
  refused_window([](auto& c, auto&) { c.c = 4; }, "4");
  refused_window([](auto& c, auto&) { c.stride = 9; }, "9 pixels apart");
  refused_window([](auto& c, auto&) { c.left = 65; }, "padding");
  refused_window([](auto& c, auto&) { c.shortcut.c = 4; }, "shortcuts");
  refused_window([](auto& c, auto&) { c.c = 8, c.kernel_h = 1; }, "too few for 6 parts");
  refused_window([](auto&, auto& d) { d.capability_major = 10; }, "capability 9.0");
}

/// Null where there is no such device, after saying so.
TestDevice* hopper_device() {
  return test_device_that([](const DeviceInfo& device) { return why_no_split_product(product(128, 128, 640), 0, device); });
}

SplitProduct ready(TestTarget& target, const TileProductCall& call, int form) {
  if (!target.emulated()) return split_product(call, form);
  SplitProduct made = split_product_without_maps(call, form);
  describe_for_emulation(made.operands, call.early_weights);
  return made;
}
SplitWindow ready(TestTarget& target, const TileWindowCall& call, int form) {
  if (!target.emulated()) return split_product(call, form);
  SplitWindow made = split_product_without_maps(call, form);
  describe_for_emulation(made, call.early_weights);
  return made;
}

std::string named(int form) {
  const SplitForm& f = split_forms()[size_t(form)];
  return fmt::format("{} columns, {} rows of tiles, {} parts", f.columns, f.rows, f.parts);
}

/// A call of every form that can make it, or of one, each into memory that nothing wrote before.
constexpr int kEveryForm = -1;
std::vector<int> forms_of(int form, bool doubles = false) {
  if (form != kEveryForm) return {form};
  std::vector<int> forms;
  for (int i = 0; i < int(split_forms().size()); ++i)
    if (split_forms()[size_t(i)].doubles == doubles) forms.push_back(i);
  return forms;
}

void check_product(TestTarget& target, const TileProductCall& call, int of_form, bool bias, bool adds) {
  CAPTURE(fmt::format("{} x {} x {} {}", call.m, call.n, call.k, name(call.type)));
  CAPTURE(bias);
  CAPTURE(adds);
  ProductCase c(target, call, bias, adds);
  for (int form : forms_of(of_form)) {
    CAPTURE(named(form));
    c.call.out = target.untouched(c.out_count * 2);
    check_results(target, c, ready(target, c.call, form));
  }
}

void check_window(TestTarget& target, const TileWindowCall& call, int of_form, bool bias, bool adds, bool in_place = false) {
  CAPTURE(text(call));
  CAPTURE(call.shortcut.c);
  CAPTURE(bias);
  CAPTURE(adds);
  Convolution c(target, call, bias, adds);
  c.call.early_weights = adds;
  for (int form : forms_of(of_form, call.doubles)) {
    CAPTURE(named(form));
    c.call.out = target.untouched((c.count + 64) * 2);
    if (in_place) c.work_in_place();
    check_results(target, c, ready(target, c.call, form));
  }
}

TEST_CASE("emulated split products of every form and epilogue agree with sums in double") {
  for (int form : forms_of(kEveryForm)) {
    EmulatedTarget target;
    TileProductCall call = product(140, 200, 64 * 17 - 8, form % 2 ? DType::f16 : DType::bf16);
    call.out_stride = 208, call.residual_stride = 216, call.a_stride = 1096;
    check_product(target, call, form, true, true);
    call.m = 7, call.n = 40, call.k = 512, call.a_stride = 0, call.scale = 0.5f, call.gelu = true, call.early_weights = true;
    check_product(target, call, form, true, false);
  }
}

TEST_CASE("emulated split windows agree with sums in double") {
  for (int form : forms_of(kEveryForm)) {
    EmulatedTarget target;
    const DType type = form % 2 ? DType::bf16 : DType::f16;
    check_window(target, window(2, 7, 9, 72, 136, type), form, true, true);
    check_window(target, strided(window(3, 17, 12, 64, 8, type), 2, 0, 1), form, true, false);
    check_window(target, window(1, 13, 11, 64, 24, type), form, false, true, true);  // two tiles of a picture
    check_window(target, window(1, 16, 8, 64, 8, type), form, true,
                 true);  // where there are two, a tile wholly behind the last pixel
    check_window(target, window(1, 1, 1, 72, 8, type), form, true, false);
  }
  for (DType type : {DType::bf16, DType::f16}) {
    EmulatedTarget target;
    check_window(target, doubled(window(2, 7, 9, 72, 200, type)), kDoubled, true, true);
    check_window(target, doubled(window(3, 5, 9, 64, 72, type)), kDoubled, false, false);
    check_window(target, doubled(window(1, 1, 1, 64, 8, type)), kDoubled, true, false);
  }
}

TEST_CASE("emulated split windows with a shortcut agree with sums in double") {
  for (int form : forms_of(kEveryForm)) {
    EmulatedTarget target;
    const DType type = form % 2 ? DType::bf16 : DType::f16;
    check_window(target, with_shortcut(window(2, 7, 9, 72, 136, type), 200), form, true, true);
    check_window(target, with_shortcut(strided(window(3, 17, 12, 64, 8, type), 2, 0, 1), 72, 96), form, true, false);
    check_window(target, with_shortcut(window(1, 13, 11, 64, 24, type), 8), form, false, true, true);
    TileWindowCall pixel = window(2, 5, 3, 64, 16, type);  // most parts have none of the window's steps
    pixel.kernel_h = pixel.kernel_w = 1, pixel.top = pixel.bottom = pixel.left = pixel.right = 0;
    check_window(target, with_shortcut(pixel, 640), form, true, true);
  }
}

TEST_CASE("a shortcut's steps come behind the split window's, counted several at a time and begun anywhere") {
  const SplitWindow made = split_product_without_maps(with_shortcut(window(1, 8, 8, 72, 160), 200), 0);
  REQUIRE(made.shortcut);
  CHECK(made.product.k == (18 + 4) * 64);
  CHECK(made.shortcut->arguments.from == 18);
  const device::SplitShortcutRows rows{{{made.product}, {made.taps}}, made.shortcut->arguments};
  for (int part = 0; part < 5; ++part) {
    device::SplitShortcutRows::Step step = rows.step(part);
    for (int i = part; i < 22; i += 5, rows.advance(step, 5)) {
      CHECK(step.number == i - 18);
      if (i >= 18) continue;
      CHECK(step.of_window.tap == i / 2);
      CHECK(step.of_window.channel == i % 2 * 64);
    }
  }
  const std::string module = made.kernel.substr(0, made.kernel.find("__")) + " (sm_90a)";
  CHECK(Kernels::all_ptx().at(module).find(".entry " + made.kernel + "(") != std::string_view::npos);
}

TEST_CASE("split products of every form, type and size agree with sums in double") {
  TestDevice* device = hopper_device();
  if (!device) return;
  struct Size {
    int64_t m, n, k;
  };
  for (DType type : {DType::bf16, DType::f16})
    for (Size s : {Size{1, 8, 512}, Size{128, 1280, 1280}, Size{300, 328, 584}, Size{1100, 968, 520}}) {
      DeviceTarget target(*device);
      TileProductCall call = product(s.m, s.n, s.k, type);
      check_product(target, call, kEveryForm, true, true);
      call.early_weights = true, call.gelu = true, call.scale = 0.5f;
      call.a_stride = s.k + 8, call.weights_stride = s.k + 24, call.out_stride = s.n + 40;
      if (s.m <= 300) check_product(target, call, kEveryForm, true, false);
    }
}

TEST_CASE("split windows of every form, type, padding and stride agree with sums in double") {
  TestDevice* device = hopper_device();
  if (!device) return;
  for (DType type : {DType::bf16, DType::f16}) {
    DeviceTarget target(*device);
    for (int64_t c : {64, 136}) {
      check_window(target, window(2, 8, 8, c, 328, type), kEveryForm, true, true);
      check_window(target, window(3, 9, 13, c, 168, type), kEveryForm, false, true, true);
      check_window(target, window(1, 1, 1, c, 8, type), kEveryForm, true, false);
      check_window(target, window(130, 1, 1, c, 8, type), kEveryForm, true, false);
      check_window(target, window(2, 14, 18, c, 200, type), kEveryForm, true, true);
      check_window(target, strided(window(2, 19, 21, c, 200, type), 2, 1, 0), kEveryForm, true, false);
      check_window(target, strided(window(3, 11, 29, c, 72, type), 3, 1, 1), kEveryForm, false, true);
      check_window(target, doubled(window(2, 8, 8, c, 328, type)), kEveryForm, true, true);
      check_window(target, doubled(window(3, 7, 9, c, 200, type)), kEveryForm, true, false);
      check_window(target, doubled(window(1, 1, 1, c, 8, type)), kEveryForm, true, true);
      check_window(target, doubled(window(1, 21, 13, c, 72, type)), kEveryForm, false, false);
    }
  }
}

TEST_CASE("split windows with a shortcut, of every form and type, agree with sums in double") {
  TestDevice* device = hopper_device();
  if (!device) return;
  for (DType type : {DType::bf16, DType::f16}) {
    DeviceTarget target(*device);
    for (int64_t c : {8, 136, 640}) {
      check_window(target, with_shortcut(window(2, 8, 8, 72, 328, type), c), kEveryForm, true, true);
      check_window(target, with_shortcut(window(3, 9, 13, 64, 168, type), c, c + 64), kEveryForm, false, true, true);
      check_window(target, with_shortcut(window(1, 1, 1, 136, 8, type), c), kEveryForm, true, false);
      check_window(target, with_shortcut(strided(window(2, 19, 21, 64, 200, type), 2, 1, 0), c), kEveryForm, true, false);
    }
  }
  for (const TileWindowCall& call :
       {with_shortcut(window(2, 8, 8, 1280, 1280), 2560), with_shortcut(window(2, 16, 16, 1280, 1280), 1920),
        with_shortcut(window(2, 14, 18, 1280, 1280), 1920)}) {
    DeviceTarget target(*device);
    check_window(target, call, kEveryForm, true, false);
  }
}

TEST_CASE("split windows of the size of Stable Diffusion's lowest levels are right, with the same bits every time") {
  TestDevice* device = hopper_device();
  if (!device) return;
  for (const TileWindowCall& call :
       {window(2, 8, 8, 1280, 1280), window(2, 16, 16, 640, 1280), doubled(window(2, 8, 8, 320, 1280)),
        window(2, 7, 9, 1280, 1280), window(2, 14, 18, 640, 1280), doubled(window(2, 7, 9, 320, 1280))}) {
    DeviceTarget target(*device);
    Convolution c(target, call, true, true);
    c.call.early_weights = true;
    for (int form : forms_of(kEveryForm, call.doubles)) {
      CAPTURE(named(form));
      c.call.out = target.untouched((c.count + 64) * 2);
      const SplitWindow made = split_product(c.call, form);
      auto run = [&] {
        for (int i = 0; i < 5; ++i) made.launch(target);  // one behind the other, begun early
        return target.download<uint8_t>(c.call.out, size_t(c.count * 2));
      };
      const auto first = run();
      for (int i = 0; i < 10; ++i) CHECK(run() == first);
      std::string where;
      const double worst = c.worst_error(where);
      CHECK_MESSAGE(worst < 1e-4, where);
    }
  }
}

}  // namespace
}  // namespace sinter::cuda
