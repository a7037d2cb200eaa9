#include "compiler/lowering/lower.h"

#include <doctest/doctest.h>

#include <set>

#include "graph/ops.h"
#include "lowered.h"
#include "models/unet.h"

using namespace sinter;

namespace {

/// The middle of a residual block: an embedding of [batch, channels] is added to every pixel, then all is normalised.
struct Block {
  Graph graph;
  Value embedding, sum, normal;
  Block() {
    constexpr DType type = DType::bf16;
    Dim batch = Dim::symbol("lower_batch"), side = Dim::symbol("lower_side");
    Value h = graph.input("h", {type, {batch, side, side, 64}});
    Value time = graph.input("time", {type, {batch, 128}});
    embedding = reshape(linear(time, weight("emb.weight", {64, 128})) + weight("emb.bias", {64}), {batch, 1, 1, 64});
    sum = h + embedding;
    normal = silu(group_norm(sum, weight("gamma", {64}), weight("beta", {64}), 32, 1e-5));
  }
  Value weight(const char* name, Shape shape) { return cast(graph.weight(name, {DType::f16, std::move(shape)}), DType::bf16); }
  Program lowered(const LowerOptions& options = {.vendor = true}) const {
    Graph legal;
    legalise(graph, legal, options);
    Program program = lower(legal, options);
    validate(program, legal);
    return program;
  }
};

template <class T>
std::vector<T> steps_of(const Program& program) {
  std::vector<T> steps;
  for (const Step& step : program.steps)
    if (const T* found = std::get_if<T>(&step)) steps.push_back(*found);
  return steps;
}
bool reads(const RowStep& step, BufferRef buffer) {
  for (size_t i = 0; i + 1 < step.use.operands.size(); ++i)
    if (step.use.operands[i].buffer == buffer) return true;
  return false;
}

constexpr BufferRef kH{BufferRef::parameter, 0};

}  // namespace

TEST_CASE("what is added to all pixels alike before a group norm becomes part of its shift") {
  Block b;
  b.graph.output("y", b.normal);
  Program program = b.lowered();
  auto stats = steps_of<GroupStatsStep>(program);
  auto rows = steps_of<RowStep>(program);
  auto linears = steps_of<LinearStep>(program);
  REQUIRE(stats.size() == 1);
  REQUIRE(linears.size() == 1);
  CHECK(stats[0].x.buffer == kH);
  CHECK(stats[0].adds);
  CHECK(linears[0].tail->bias >= 0);
  CHECK(stats[0].addend.buffer == linears[0].out.buffer);
  CHECK(stats[0].addend_stride == Dim(64));
  CHECK(stats[0].addend_type == DType::bf16);
  // The one kernel left scales and shifts h itself: what the shift contains is not added again.
  REQUIRE(rows.size() == 1);
  CHECK(reads(rows[0], kH));
  CHECK_FALSE(reads(rows[0], linears[0].out.buffer));
}

TEST_CASE("a sum before a group norm is made where something else reads it, too") {
  Block b;
  b.graph.output("y", b.normal);
  b.graph.output("sum", b.sum);
  Program program = b.lowered();
  auto stats = steps_of<GroupStatsStep>(program);
  REQUIRE(stats.size() == 1);
  CHECK_FALSE(stats[0].adds);
  CHECK(stats[0].x.buffer == BufferRef{BufferRef::result, 1});
}

TEST_CASE("a sum before a group norm is made where engines cannot fold it") {
  Block b;
  b.graph.output("y", b.normal);
  for (LowerOptions options : {LowerOptions{}, LowerOptions{.fuse = false, .vendor = true}})
    for (const GroupStatsStep& step : steps_of<GroupStatsStep>(b.lowered(options))) CHECK_FALSE(step.adds);
}

TEST_CASE("a sum of two pictures before a group norm is none of an addend") {
  Graph graph;
  Type type{DType::bf16, {Dim::symbol("lower_batch"), 8, 8, 64}};
  Value sum = graph.input("a", type) + graph.input("b", type);
  Value gamma = graph.weight("gamma", {DType::bf16, {64}}), beta = graph.weight("beta", {DType::bf16, {64}});
  graph.output("y", group_norm(sum, gamma, beta, 32, 1e-5));
  Graph legal;
  legalise(graph, legal, {.vendor = true});
  auto stats = steps_of<GroupStatsStep>(lower(legal, {.vendor = true}));
  REQUIRE(stats.size() == 1);
  CHECK_FALSE(stats[0].adds);
}

namespace {

/// A picture, resized by `times`, under a convolution of 3 x 3.
Program enlarged(int64_t times, const LowerOptions& options, int64_t channels = 64) {
  Graph graph;
  Dim side = Dim::symbol("lower_side");
  Value x = graph.input("x", {DType::bf16, {1, side, side, 32}});
  Value w = cast(graph.weight("conv.weight", {DType::f16, {channels, 32, 3, 3}}), DType::bf16);
  graph.output("y", conv2d(resize_nearest(x, side * times, side * times), w, {.top = 1, .left = 1, .bottom = 1, .right = 1}));
  return Lowered(graph, options).program;
}

}  // namespace

TEST_CASE("a vendor's convolution of a picture at twice its size reads the picture as it is") {
  Program program = enlarged(2, {.vendor = true});
  REQUIRE(program.steps.size() == 1);
  auto conv = steps_of<ConvStep>(program).at(0);
  CHECK(conv.doubled);
  CHECK(conv.h == Dim::symbol("lower_side"));
  CHECK(conv.in.buffer == BufferRef{BufferRef::parameter, 0});
  CHECK(program.weights.at(size_t(conv.weight)).form == WeightSlot::doubled_filters);
}

TEST_CASE("a convolution of a picture at twice its size takes its bias only where it may, and where that is a pass of its own") {
  auto made = [](bool alone, const LowerOptions& options) {
    Graph graph;
    Dim side = Dim::symbol("lower_side");
    Value x = graph.input("x", {DType::bf16, {1, side, side, 32}});
    auto weight = [&](const char* name, Shape shape) {
      return cast(graph.weight(name, {DType::f16, std::move(shape)}), DType::bf16);
    };
    Value y = conv2d(resize_nearest(x, side * 2, side * 2), weight("w", {64, 32, 3, 3}),
                     {.top = 1, .left = 1, .bottom = 1, .right = 1});
    y = y + broadcast(weight("b", {64}), y.shape());
    graph.output("y", alone ? y : silu(y));
    return Lowered(graph, options).program;
  };
  const LowerOptions may{.vendor = true, .doubled_bias = true};
  const Program with = made(true, may);
  REQUIRE(with.steps.size() == 1);
  const ConvStep conv = steps_of<ConvStep>(with).at(0);
  CHECK(conv.doubled);
  CHECK(conv.tail->bias >= 0);
  REQUIRE(conv.epilogue);
  std::set<BufferRef> touched;
  for (const OperandUse& o : conv.epilogue->operands) touched.insert(o.buffer);
  CHECK(touched.contains(conv.out.buffer));
  for (const Program& without : {made(true, {.vendor = true}), made(false, may)}) {
    CHECK(steps_of<ConvStep>(without).at(0).doubled);
    CHECK(steps_of<ConvStep>(without).at(0).tail->bias < 0);
    CHECK(steps_of<RowStep>(without).size() == 1);
  }
}

TEST_CASE("a picture at another size, or results of odd widths, are not convolved so") {
  for (const Program& program :
       {enlarged(3, {.vendor = true}), enlarged(2, {.vendor = true}, 3), enlarged(2, {.fuse = false, .vendor = true})}) {
    CHECK(!steps_of<ConvStep>(program).at(0).doubled);
    CHECK(steps_of<RowStep>(program).size() == 1);
  }
  CHECK(!steps_of<ConvStep>(enlarged(2, {})).at(0).doubled);
}

TEST_CASE("what the U-Nets enlarge is convolved as it is, whichever sizes were rounded up on the way down") {
  for (auto [config, levels] : {std::pair{sd15_unet_config(), size_t(4)}, {sdxl_unet_config(), size_t(3)}}) {
    Graph graph;
    Dim height = Dim::symbol("height"), width = Dim::symbol("width");
    build_unet(graph, config, {Dim::symbol("batch"), height, width, Dim::symbol("text")},
               {.compute = DType::bf16, .storage = {}});
    std::vector<const ConvStep*> doubled;
    Lowered lowered(graph, {.vendor = true});
    for (const ConvStep* step : lowered.all<ConvStep>())
      if (step->doubled) doubled.push_back(step);
    REQUIRE(doubled.size() == levels - 1);
    CHECK(doubled.back()->enlarged_h == height);
    CHECK(doubled.back()->enlarged_w == width);
    std::vector<SymbolId> symbols;
    height.collect_symbols(symbols), width.collect_symbols(symbols);
    const Bindings sizes{{symbols[0], 64}, {symbols[1], 65}};
    CHECK(doubled.back()->h.value(sizes) == 32);
    CHECK(doubled.back()->w.value(sizes) == 33);
  }
}

namespace {

/// The end of a residual block: a convolution and its bias, added to its input, which may pass a linear layer. Another block
/// follows.
struct ResidualEnd {
  bool linear_shortcut = false;
  std::function<Value(Graph&, Value)> follows = [](Graph&, Value sum) { return sum; };
  Program lowered() const {
    Graph graph;
    auto weight = [&](const char* name, Shape shape) {
      return cast(graph.weight(name, {DType::f16, std::move(shape)}), DType::bf16);
    };
    Value x = graph.input("x", {DType::bf16, {2, Dim::symbol("lower_side"), 24, 64}});
    Value h = conv2d(silu(x), weight("conv.weight", {64, 64, 3, 3}), {.top = 1, .left = 1, .bottom = 1, .right = 1});
    h = h + broadcast(weight("conv.bias", {64}), h.shape());
    if (linear_shortcut) x = linear(x, weight("shortcut.weight", {64, 64}));
    graph.output("y", follows(graph, x + h));
    return Lowered(graph, {.vendor = true}).program;
  }
};

}  // namespace

TEST_CASE("what is added to a convolution is part of its step where the sum would be a pass of its own") {
  Program program = ResidualEnd{}.lowered();
  auto conv = steps_of<ConvStep>(program).at(0);
  CHECK(program.steps.size() == 2);  // SiLU, convolution
  CHECK(conv.tail->bias >= 0);
  CHECK(conv.tail->adds);
  CHECK(conv.tail->residual.buffer == BufferRef{BufferRef::parameter, 0});
  CHECK(conv.out.buffer == BufferRef{BufferRef::result, 0});
  // The same in a pass: what lies there and the residual, added in place.
  REQUIRE(conv.epilogue);
  std::set<BufferRef> touched;
  for (const OperandUse& o : conv.epilogue->operands) touched.insert(o.buffer);
  CHECK(conv.epilogue->operands.size() == 3);
  CHECK(touched == std::set<BufferRef>{conv.out.buffer, conv.tail->residual.buffer});
}

TEST_CASE("what another kernel adds to a convolution stays with that kernel") {
  Program program = ResidualEnd{.follows = [](Graph&, Value sum) { return silu(sum); }}.lowered();
  CHECK(!steps_of<ConvStep>(program).at(0).tail->adds);
  CHECK(program.steps.size() == 3);
}

TEST_CASE("the sum of a linear layer and a convolution is the linear layer's") {
  Program program = ResidualEnd{.linear_shortcut = true}.lowered();
  CHECK(program.steps.size() == 3);  // SiLU, convolution, linear layer
  CHECK(!steps_of<ConvStep>(program).at(0).tail->adds);
  auto shortcut = steps_of<LinearStep>(program).at(0);
  CHECK(shortcut.tail->adds);
  CHECK(shortcut.tail->residual.buffer == steps_of<ConvStep>(program).at(0).out.buffer);
}

TEST_CASE("what is added to all pixels of a convolution alike is no residual of it") {
  Graph graph;
  Value x = graph.input("x", {DType::bf16, {2, 8, 8, 64}}), more = graph.input("more", {DType::bf16, {2, 1, 1, 64}});
  Value w = cast(graph.weight("w", {DType::f16, {64, 64, 3, 3}}), DType::bf16);
  Value h = conv2d(x, w, {.top = 1, .left = 1, .bottom = 1, .right = 1});
  graph.output("y", h + broadcast(more, h.shape()));
  CHECK(!Lowered(graph, {.vendor = true}).all<ConvStep>().at(0)->tail->adds);
}

namespace {

/// A feed-forward layer's first half: a linear layer whose second half of columns gates the first.
Program gated_layer(const LowerOptions& options, int64_t columns, bool read_twice = false, const char* gelu_op = "gelu") {
  Graph graph;
  Value x = graph.input("x", {DType::bf16, {Dim::symbol("lower_batch"), 7, 64}});
  auto weight = [&](const char* name, Shape shape) {
    return cast(graph.weight(name, {DType::f16, std::move(shape)}), DType::bf16);
  };
  Value whole = linear(x, weight("proj.weight", {2 * columns, 64})) + weight("proj.bias", {2 * columns});
  Value value = slice(whole, 2, 0, columns), gate = slice(whole, 2, columns, columns);
  graph.output("y", value * graph.add(*find_op(gelu_op), {gate}, {}));
  if (read_twice) graph.output("whole", whole);
  return Lowered(graph, options).program;
}

}  // namespace

TEST_CASE("a linear layer whose halves gate each other is one product of two parts where a product can gate") {
  Program program = gated_layer({.vendor = true, .gated = true}, 96);
  auto linears = steps_of<LinearStep>(program);
  REQUIRE(linears.size() == 1);
  CHECK(program.steps.size() == 1);
  CHECK(linears[0].tail->gated);
  CHECK(linears[0].parts == 2);
  CHECK(linears[0].n == 96);
  CHECK(linears[0].tail->bias >= 0);
  CHECK(linears[0].out.buffer == BufferRef{BufferRef::result, 0});
}

TEST_CASE(
    "a linear layer is not gated where that is not asked for, or something else reads it, or the gate is another function") {
  for (const Program& program :
       {gated_layer({.vendor = true}, 96), gated_layer({.vendor = true, .gated = true}, 96, true),
        gated_layer({.vendor = true, .gated = true}, 96, false, "gelu_tanh"), gated_layer({.vendor = true, .gated = true}, 92),
        gated_layer({.fuse = false, .vendor = true, .gated = true}, 96)}) {
    for (const LinearStep& step : steps_of<LinearStep>(program)) CHECK(!step.tail->gated);
    CHECK(program.steps.size() > 1);
  }
}

namespace {

/// The gated products of a graph and of all that it calls.
size_t gated_products(const Graph& graph, const LowerOptions& options) {
  Graph legal;
  legalise(graph, legal, options);
  size_t count = 0;
  for (const LinearStep& step : steps_of<LinearStep>(lower(legal, options))) count += step.tail && step.tail->gated;
  for (Value v : topological_order(graph))
    if (v->op == &call_op) count += gated_products(v->attrs.as<CallAttrs>().function->graph, options);
  return count;
}

}  // namespace

TEST_CASE("every transformer block of the U-Nets has one gated product") {
  for (auto [config, blocks] : {std::pair{sd15_unet_config(), size_t(16)}, {sdxl_unet_config(), size_t(70)}}) {
    Graph graph;
    build_unet(graph, config, {Dim::symbol("batch"), Dim::symbol("height"), Dim::symbol("width"), Dim::symbol("text")},
               {.compute = DType::bf16, .storage = {}});
    CHECK(gated_products(graph, {.vendor = true, .gated = true}) == blocks);
  }
}
