#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

#include "backends/cuda/calls/attention.h"
#include "backends/cuda/calls/conv.h"
#include "backends/cuda/calls/conv_graph.h"
#include "backends/cuda/calls/own_conv.h"
#include "backends/cuda/calls/tuning.h"
#include "backends/cuda/test_device.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

TEST_CASE("sizes of a strided convolution padded on one side are those of the formula") {
  ConvAxis encoder{.in = 512, .kernel = 3, .stride = 2, .pad_before = 0, .pad_after = 1};
  CHECK(encoder.out() == 256);
  CHECK(ConvAxis{.in = 17, .stride = 2}.out() == 9);
  CHECK(ConvAxis{.in = 5, .kernel = 3, .pad_before = 2, .pad_after = 0}.out() == 5);
  ConvShape s{.n = 2, .c = 4, .out_c = 8, .axes = {{.in = 6}, {.in = 5}}};
  CHECK(s.out_pixels() == 60);
  CHECK(s.flops() == 2.0 * 60 * 8 * 4 * 9);
}

TEST_CASE("residuals are added by convolutions of 16 bits whose results are large for their arithmetic") {
  auto fused = [](int64_t size, int64_t channels, DType type = DType::bf16) {
    return residual_should_be_fused(
        {.n = 1, .c = channels, .out_c = channels, .axes = {{.in = size}, {.in = size}}, .type = type});
  };
  CHECK(fused(1024, 128));
  CHECK(fused(512, 256));
  CHECK_FALSE(fused(256, 512));
  CHECK_FALSE(fused(511, 128));
  CHECK_FALSE(fused(512, 128, DType::f32));
}

TEST_CASE("the library is not asked where tiles of ours fill the device or are split along long sums") {
  auto wins = [](int64_t size, int64_t c, int64_t out_c, auto change) {
    ConvShape shape{.n = 2, .c = c, .out_c = out_c, .axes = {{.in = size}, {.in = size}}};
    change(shape);
    return own_conv_should_win(shape, hopper());
  };
  auto as_it_is = [](ConvShape&) {};
  CHECK(wins(64, 320, 320, as_it_is));
  CHECK(wins(64, 320, 320, [](ConvShape& s) { s.residual = true; }));
  CHECK(wins(32, 640, 640, as_it_is));   // tiles of 80 columns
  CHECK(wins(8, 1280, 1280, as_it_is));  // split
  CHECK(wins(16, 1280, 1280, [](ConvShape& s) { s.axes[0].stride = s.axes[1].stride = 2; }));
  CHECK(wins(16, 1280, 1280, as_it_is));
  auto across = [](int64_t width) { return [width](ConvShape& s) { s.axes[1].in = width; }; };
  CHECK(wins(14, 1280, 1280, across(18)));
  CHECK(wins(7, 1280, 1280, across(9)));
  CHECK(wins(16, 640, 1280, as_it_is));
  CHECK(!wins(16, 320, 1280, as_it_is));  // too short sums to be split
  CHECK(!wins(4, 320, 640, as_it_is));
  CHECK(!wins(64, 4, 320, as_it_is));
  CHECK(!wins(64, 320, 4, as_it_is));
  CHECK(!wins(64, 320, 320, [](ConvShape& s) { s.type = DType::f32; }));
  CHECK(!wins(64, 320, 320, [](ConvShape& s) { s.silu = true; }));
  CHECK(!wins(64, 320, 320, [](ConvShape& s) { s.axes[0].stride = 2; }));
  CHECK(!wins(64, 320, 320, [](ConvShape& s) { s.axes[1].dilation = 2; }));
  CHECK(!wins(64, 320, 320, [](ConvShape& s) { s.axes.insert(s.axes.begin(), ConvAxis{.in = 1}); }));
  auto doubled = [](ConvShape& s) {
    s.doubles = true;
    for (ConvAxis& axis : s.axes) axis.kernel = 4, axis.stride = 2;
  };
  CHECK(wins(64, 640, 640, doubled));
  CHECK(wins(8, 1280, 1280, doubled));  // split
  CHECK(!wins(32, 640, 640, doubled));
  CHECK(wins(128, 512, 512, as_it_is));  // tiles of 128 columns
  CHECK(wins(128, 512, 512, [](ConvShape& s) { s.residual = true; }));
}

TEST_CASE("modules of tile windows are wanted for 16 bits on the devices that have them") {
  CHECK(tile_window_modules(DType::bf16, 640, WindowKind::Plain, hopper()) ==
        std::vector<std::string>{"tile_window_160_bf16", "tile_window_128_bf16", "tile_window_80_bf16"});
  CHECK(tile_window_modules(DType::f32, 640, WindowKind::Plain, hopper()).empty());
  // Tiles of no form that loses columns where another loses none.
  CHECK(tile_window_modules(DType::f16, 320, WindowKind::Plain, hopper()) ==
        std::vector<std::string>{"tile_window_160_f16", "tile_window_80_f16"});
  CHECK(tile_window_modules(DType::bf16, 512, WindowKind::Plain, hopper()) == std::vector<std::string>{"tile_window_128_bf16"});
  CHECK(tile_window_modules(DType::bf16, 1280, WindowKind::Doubles, hopper()) ==
        std::vector<std::string>{"tile_doubled_128_bf16"});
  DeviceInfo ampere = hopper();
  ampere.capability_major = 8;
  CHECK(tile_window_modules(DType::bf16, 640, WindowKind::Doubles, ampere).empty());
  CHECK(tile_taps_modules(DType::bf16, 640, hopper()) == std::vector<std::string>{"tile_taps_160_bf16", "tile_taps_128_bf16"});
  CHECK(tile_taps_modules(DType::f16, 320, hopper()) == std::vector<std::string>{"tile_taps_160_f16"});
  CHECK(tile_taps_modules(DType::f32, 640, hopper()).empty());
  CHECK(tile_taps_modules(DType::bf16, 640, ampere).empty());
}

TEST_CASE("untimed, kernels of ours are also taken where all of their tiles are made at once, and to twice the size") {
  auto does = [](int64_t h, int64_t w, int64_t c, int64_t out_c, int64_t stride) {
    const ConvShape s{.n = 2, .c = c, .out_c = out_c, .axes = {{.in = h, .stride = stride}, {.in = w, .stride = stride}}};
    CHECK(!own_conv_should_win(s, hopper()));
    return own_conv_should_do(s, hopper());
  };
  CHECK(does(64, 64, 320, 320, 2));
  CHECK(does(56, 72, 320, 320, 2));
  CHECK(does(28, 36, 320, 640, 1));
  CHECK(!does(25, 33, 1280, 1280, 1));  // three rounds
  CHECK(!does(32, 32, 320, 640, 2));    // a quarter of the device
  ConvShape doubled{
      .n = 2, .c = 640, .out_c = 640, .axes = {{.in = 28, .kernel = 4, .stride = 2}, {.in = 36, .kernel = 4, .stride = 2}}};
  doubled.doubles = true;
  CHECK(!own_conv_should_win(doubled, hopper()));
  CHECK(own_conv_should_do(doubled, hopper()));
  doubled.n = 1, doubled.axes[0].in = doubled.axes[1].in = 8;
  CHECK(!own_conv_should_do(doubled, hopper()));
}

std::vector<std::string> own_names(const ConvShape& s) {
  std::vector<std::string> names;
  for (int form : own_conv_forms(s, hopper())) names.push_back(own_conv_name(s, form));
  return names;
}
bool has_taps(const ConvShape& s) {
  const auto names = own_names(s);
  return std::any_of(names.begin(), names.end(), [](const std::string& name) { return name.starts_with("tile_taps"); });
}

TEST_CASE(
    "tile taps compete where tile windows waste places, in the forms that do not, and are taken untimed where they waste "
    "little") {
  auto conv = [](int64_t h, int64_t w, int64_t c, int64_t out_c) {
    return ConvShape{.n = 2, .c = c, .out_c = out_c, .axes = {{.in = h}, {.in = w}}};
  };
  using Names = std::vector<std::string>;
  // The lowest level of SDXL at 1152 x 896, and the one above. Tiles of 128 columns make two rounds of 1280.
  CHECK(own_names(conv(28, 36, 1280, 1280)) == Names{"tile_window_160", "tile_window_128", "tile_window_80", "tile_taps_160"});
  CHECK(own_names(conv(36, 28, 2560, 1280)) == own_names(conv(28, 36, 1280, 1280)));
  for (const ConvShape& s :
       {conv(28, 36, 640, 1280), conv(26, 38, 2560, 1280), conv(26, 34, 1280, 1280), conv(52, 76, 640, 640)}) {
    CHECK(has_taps(s));
    CHECK(own_conv_should_win(s, hopper()));
  }
  const ConvShape few = conv(25, 33, 1280, 1280);  // 0.78 of the device
  CHECK(has_taps(few));
  CHECK(!own_conv_should_win(few, hopper()));
  CHECK(!has_taps(conv(28, 36, 1920, 640)));   // one round either way
  CHECK(!has_taps(conv(64, 64, 320, 320)));    // full patches
  CHECK(!has_taps(conv(14, 18, 1280, 1280)));  // a quarter of the device: split
  CHECK(!has_taps(conv(28, 36, 4, 1280)));
  auto changed = [&](auto change) {
    ConvShape s = conv(28, 36, 1280, 1280);
    change(s);
    return has_taps(s);
  };
  CHECK(changed([](ConvShape& s) { s.residual = s.rest_may_follow = true; }));
  CHECK(changed([](ConvShape& s) { s.axes = {{.in = 56, .stride = 2}, {.in = 72, .stride = 2}}; }));
  CHECK(!changed([](ConvShape& s) { s.type = DType::f32; }));
  CHECK(!changed([](ConvShape& s) { s.silu = true; }));
  CHECK(!changed([](ConvShape& s) { s.axes[1].dilation = 2; }));
  CHECK(!changed([](ConvShape& s) { s.shortcut_c = s.shortcut_stride = 640; }));
  CHECK(!changed([](ConvShape& s) {
    s.doubles = true;
    for (ConvAxis& axis : s.axes) axis.kernel = 4, axis.stride = 2;
  }));
}

TEST_CASE("of convolutions that the library would compile kernels for, it builds few candidates") {
  ConvShape s{.n = 2, .c = 64, .out_c = 64, .axes = {{.in = 64}, {.in = 64}}, .bias = true};
  CHECK(conv_request(s).candidates == 8);
  s.residual = true;
  CHECK(conv_request(s).candidates == 3);
}

TEST_CASE("two convolutions or attentions with the same name are the same") {
  ConvShape base{.n = 2, .c = 4, .out_c = 8, .axes = {{.in = 6}, {.in = 5}}};
  auto differs = [&](auto change) {
    ConvShape other = base;
    change(other);
    CHECK(other.text() != base.text());
  };
  differs([](ConvShape& s) { s.n = 1; });
  differs([](ConvShape& s) { s.c = 5; });
  differs([](ConvShape& s) { s.out_c = 9; });
  differs([](ConvShape& s) { std::swap(s.axes[0], s.axes[1]); });
  differs([](ConvShape& s) { s.axes[0].stride = 2; });
  differs([](ConvShape& s) { s.axes[0].pad_before = 0; });
  differs([](ConvShape& s) { s.axes[1].pad_after = 0; });
  differs([](ConvShape& s) { s.axes[1].dilation = 2; });
  differs([](ConvShape& s) { s.axes[1].kernel = 2; });
  differs([](ConvShape& s) { s.type = DType::f16; });
  differs([](ConvShape& s) { s.bias = true; });
  differs([](ConvShape& s) { s.residual = true; });
  differs([](ConvShape& s) { s.silu = true; });
  differs([](ConvShape& s) { s.rest_may_follow = true; });
  differs([](ConvShape& s) { s.allow_tf32 = true; });
  AttentionShape a{.queries = 8, .keys = 8, .d = 64}, other = a;
  other.k.t = 3;
  CHECK(a.text() != other.text());
  other = a;
  other.causal = true;
  CHECK(a.text() != other.text());
  other = a;
  other.bias = AttentionBias{};
  CHECK(a.text() != other.text());
}

TEST_CASE("the first of several equally fast candidates is chosen, and none where all failed") {
  const double never = std::numeric_limits<double>::infinity();
  CHECK(best_candidate({10.05, 10, 9.99}) == 0);
  CHECK(best_candidate({12, never, 9, 9.05}) == 2);
  CHECK(best_candidate({never, never}) == -1);
  CHECK(best_candidate({}) == -1);
}

}  // namespace
}  // namespace sinter::cuda
