#include "backends/cuda/shortcut_steps.h"

#include <doctest/doctest.h>

#include <algorithm>

#include "backends/cuda/calls/shortcut.h"
#include "backends/cuda/test_device.h"
#include "graph/ops.h"
#include "lowered.h"
#include "models/unet.h"

namespace sinter::cuda {
namespace {

/// As for a device that has kernels with shortcuts.
constexpr LowerOptions kOptions{.vendor = true, .gated = true, .doubled_bias = true};

struct Pair {
  int64_t out_c, c, shortcut_c, rows;
  auto operator<=>(const Pair&) const = default;
};

void add_pairs(const Graph& graph, const Bindings& bindings, std::vector<Pair>& pairs) {
  const Lowered lowered(graph, kOptions);
  for (size_t i = 0; i < lowered.program.steps.size(); ++i)
    if (const auto steps = shortcut_steps(lowered.program, i); steps && rows_are_pixels(*steps, bindings))
      pairs.push_back({steps->conv->out_c, steps->conv->c, steps->linear->k, steps->linear->m.value(bindings)});
  for (Value v : topological_order(graph))
    if (v->op == &call_op) add_pairs(v->attrs.as<CallAttrs>().function->graph, bindings, pairs);
}

/// Of a U-Net, for a picture of so many latent rows and columns.
std::vector<Pair> pairs_of(const UnetConfig& config, int64_t height, int64_t width) {
  Graph graph;
  const Dim batch = Dim::symbol("batch"), rows = Dim::symbol("height"), columns = Dim::symbol("width"),
            text = Dim::symbol("text");
  build_unet(graph, config, {batch, rows, columns, text}, {.compute = DType::bf16, .storage = {}});
  Bindings bindings;
  const std::pair<Dim, int64_t> sizes[] = {{batch, 2}, {rows, height}, {columns, width}, {text, 77}};
  for (const auto& [dim, size] : sizes) {
    std::vector<SymbolId> symbol;
    dim.collect_symbols(symbol);
    bindings[symbol.front()] = size;
  }
  std::vector<Pair> pairs;
  add_pairs(graph, bindings, pairs);
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

TEST_CASE("every residual block of the U-Nets whose channels change ends with a convolution with a shortcut") {
  const std::vector<Pair> found = pairs_of(sd15_unet_config(), 64, 64);
  const std::vector<Pair> expected = {
      {320, 320, 640, 8192},   {320, 320, 640, 8192},   {320, 320, 960, 8192},                             // level 1, up
      {640, 640, 320, 2048},   {640, 640, 960, 2048},   {640, 640, 1280, 2048},  {640, 640, 1920, 2048},   // level 2
      {1280, 1280, 640, 512},  {1280, 1280, 1920, 512}, {1280, 1280, 2560, 128}, {1280, 1280, 2560, 128},  // levels 3, 4
      {1280, 1280, 2560, 128}, {1280, 1280, 2560, 512}, {1280, 1280, 2560, 512}};
  CHECK(found == expected);
  CHECK(pairs_of(sd15_unet_config(), 61, 83).size() == 14);
  CHECK(pairs_of(sdxl_unet_config(), 128, 128).size() == 11);
}

struct Block {
  Graph graph;
  DType type;
  Dim side = Dim::symbol("shortcut_side");
  Value h, x;

  explicit Block(DType t = DType::bf16, int64_t pixels_more = 0) : type(t) {
    h = graph.input("h", {type, {2, side, side, 64}});
    x = graph.input("x", {type, {2, side + Dim(pixels_more), side + Dim(pixels_more), 128}});
  }
  Value conv(Value of, int64_t out_c, int64_t kernel, const std::string& name, int64_t stride = 1) {
    const int64_t c = of.dim(-1).constant(), padding = kernel / 2;
    Value y = conv2d(of, graph.weight(name + ".w", {type, {out_c, c, kernel, kernel}}),
                     {.stride = stride, .top = padding, .left = padding, .bottom = padding, .right = padding});
    return y + graph.weight(name + ".b", {type, {out_c}});
  }
  int pairs() {
    const Lowered lowered(graph, kOptions);
    Bindings bindings;
    std::vector<SymbolId> symbol;
    side.collect_symbols(symbol);
    bindings[symbol.front()] = 8;
    int found = 0;
    for (size_t i = 0; i < lowered.program.steps.size(); ++i)
      if (const auto steps = shortcut_steps(lowered.program, i)) found += rows_are_pixels(*steps, bindings);
    return found;
  }
};

template <class Finish>
int pairs_where(const Finish& finish, DType type = DType::bf16) {
  Block block(type);
  block.graph.output("y", finish(block));
  return block.pairs();
}

TEST_CASE("a convolution with a shortcut is found in either order of the sum, and nothing else is taken for one") {
  auto window = [](Block& b) { return b.conv(b.h, 32, 3, "window"); };
  auto more = [](Block& b) { return b.conv(b.x, 32, 1, "more"); };
  for (DType type : {DType::bf16, DType::f16}) {
    CHECK(pairs_where([&](Block& b) { return more(b) + window(b); }, type) == 1);
    CHECK(pairs_where([&](Block& b) { return window(b) + more(b); }, type) == 1);
  }
  // Two linear layers; two windows; no sum.
  CHECK(pairs_where([&](Block& b) { return b.conv(b.h, 32, 1, "window") + more(b); }) == 0);
  CHECK(pairs_where([&](Block& b) { return window(b) + b.conv(b.x, 32, 3, "more"); }) == 0);
  CHECK(pairs_where([&](Block& b) { return concat({window(b), more(b)}, 3); }) == 0);
  // The convolution's result is wanted for itself.
  CHECK(pairs_where([&](Block& b) {
          Value y = window(b), sum = more(b) + y;
          b.graph.output("window", y);
          return sum;
        }) == 0);
  CHECK(pairs_where([&](Block& b) {
          Value y = window(b);
          return b.conv(y, 32, 1, "more") + y;
        }) == 0);
  // Something stands between.
  CHECK(pairs_where([&](Block& b) { return more(b) + silu(window(b)); }) == 0);
  CHECK(pairs_where([&](Block& b) { return silu(more(b)) + window(b); }) == 0);
  // What becomes of the sum later does not matter.
  CHECK(pairs_where([&](Block& b) { return silu(more(b) + window(b)); }) == 1);
}

TEST_CASE("a convolution with a shortcut is none where a program says otherwise of its places, types or sizes") {
  Block block;
  block.graph.output("y", block.conv(block.x, 32, 1, "more") + block.conv(block.h, 32, 3, "window"));
  const Lowered lowered(block.graph, kOptions);
  REQUIRE(lowered.program.steps.size() == 2);
  Bindings bindings;
  std::vector<SymbolId> symbol;
  block.side.collect_symbols(symbol);
  bindings[symbol.front()] = 8;
  auto found = [&](auto change) {
    Program program = lowered.program;
    change(program, std::get<ConvStep>(program.steps[0]), std::get<LinearStep>(program.steps[1]));
    const auto steps = shortcut_steps(program, 0);
    return steps && rows_are_pixels(*steps, bindings);
  };
  CHECK(found([](Program&, ConvStep&, LinearStep&) {}));
  CHECK_FALSE(shortcut_steps(lowered.program, 1));
  CHECK_FALSE(found([](Program& p, ConvStep&, LinearStep&) {
    for (Temporary& t : p.temporaries) ++t.last_step;
  }));
  CHECK_FALSE(found([](Program&, ConvStep&, LinearStep& l) { l.tail->residual.offset = 32; }));
  CHECK_FALSE(found([](Program&, ConvStep& c, LinearStep& l) { l.a.buffer = c.out.buffer; }));
  CHECK_FALSE(found([](Program&, ConvStep&, LinearStep& l) { l.a_type = DType::f8e4m3; }));
  CHECK_FALSE(found([](Program&, ConvStep&, LinearStep& l) { l.tail->gelu = true; }));
  CHECK_FALSE(found([](Program&, ConvStep& c, LinearStep&) { c.doubled = true; }));
  CHECK_FALSE(found([](Program&, ConvStep& c, LinearStep&) { c.computed = true; }));
  CHECK_FALSE(found([](Program&, ConvStep& c, LinearStep&) { c.stride = 2; }));
  CHECK_FALSE(found([](Program&, ConvStep&, LinearStep& l) { l.m = l.m * 2; }));
  CHECK_FALSE(found([](Program&, ConvStep&, LinearStep& l) { l.batch = 2; }));
  CHECK_FALSE(found([](Program&, ConvStep&, LinearStep& l) { l.out_stride = 64; }));
  // Where the sum lies where the convolution's result would have, later steps read the sum.
  CHECK(found([](Program& p, ConvStep& c, LinearStep& l) {
    l.out = c.out;
    for (Temporary& t : p.temporaries) ++t.last_step;
  }));
}

ConvShape conv(int64_t size, int64_t c, int64_t out_c) {
  return {.n = 2, .c = c, .out_c = out_c, .axes = {{.in = size}, {.in = size}}, .bias = true};
}
LinearShape linear(int64_t size, int64_t k, int64_t n) {
  return {.m = 2 * size * size, .n = n, .k = k, .epilogue = LinearEpilogue::Bias, .residual = true};
}

TEST_CASE("there is a kernel for the shortcuts of the U-Nets, and none where types or sizes do not fit") {
  for (int64_t size : {64, 32, 16, 8}) CHECK(why_no_shortcut(conv(size, 640, 640), linear(size, 960, 640), hopper()) == "");
  auto refused = [](auto change) {
    ConvShape c = conv(32, 640, 640);
    LinearShape l = linear(32, 960, 640);
    change(c, l);
    return !why_no_shortcut(c, l, hopper()).empty();
  };
  CHECK_FALSE(refused([](ConvShape&, LinearShape&) {}));
  CHECK(refused([](ConvShape& c, LinearShape&) { c.type = DType::f16; }));
  CHECK(refused([](ConvShape&, LinearShape& l) { l.compute = LinearCompute::F16Accumulate; }));
  CHECK(refused([](ConvShape&, LinearShape& l) { l.m = 512; }));
  CHECK(refused([](ConvShape&, LinearShape& l) { l.residual = false; }));
  CHECK(refused([](ConvShape&, LinearShape& l) { l.alignment = 8; }));
  CHECK(refused([](ConvShape&, LinearShape& l) { l.k = 12; }));
  CHECK(refused([](ConvShape& c, LinearShape&) { c.residual = true; }));
}

TEST_CASE("untimed, shortcuts are taken where kernels of ours are for the convolution") {
  auto wins = [](int64_t size, int64_t c, int64_t more) {
    return shortcut_should_win(with_shortcut(conv(size, c, c), linear(size, more, c)), hopper());
  };
  CHECK(wins(64, 320, 960));
  CHECK(wins(32, 640, 1920));
  CHECK(wins(16, 1280, 2560));
  CHECK(wins(8, 1280, 2560));
  CHECK(shortcut_should_win(with_shortcut({.n = 1, .c = 128, .out_c = 128, .axes = {{.in = 1024}, {.in = 1024}}},
                                          {.m = 1 << 20, .n = 128, .k = 256, .residual = true}),
                            hopper()));
  CHECK_FALSE(wins(8, 320, 1280));
  CHECK_FALSE(wins(64, 320, 9 * 320 + 64));
}

}  // namespace
}  // namespace sinter::cuda
