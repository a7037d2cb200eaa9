#include <doctest/doctest.h>

#include <algorithm>

#include "compiler/lowering/lower.h"
#include "graph/ops.h"
#include "models/flux.h"

using namespace sinter;

namespace {

struct Lowered {
  Graph graph;
  Program program;
  explicit Lowered(const Graph& source, int64_t fp8_width = 64) {
    LowerOptions options{.vendor = true, .fp8_width = fp8_width};
    legalise(source, graph, options);
    program = lower(graph, options);
    validate(program, graph);
  }
  template <class StepType>
  std::vector<const StepType*> all() const {
    std::vector<const StepType*> found;
    for (const Step& step : program.steps)
      if (auto* one = std::get_if<StepType>(&step)) found.push_back(one);
    return found;
  }
  size_t fp8_linears() const {
    auto linears = all<LinearStep>();
    return size_t(std::count_if(linears.begin(), linears.end(), [](auto* l) { return l->a_type == DType::f8e4m3; }));
  }
};

/// Layers of weights [n, k] in bf16.
struct TokenNetwork {
  Graph graph;
  Value tokens(int64_t width, const char* name = "x") {
    return graph.input(name, {DType::bf16, {Dim::symbol("fp8_batch"), Dim::symbol("fp8_tokens"), width}});
  }
  Value weight(const char* name, Shape shape) { return graph.weight(name, {DType::bf16, std::move(shape)}); }
  Value layer(Value x, const char* name, int64_t n) { return linear(x, weight(name, {n, x.dim(-1)})); }
};

}  // namespace

TEST_CASE("wide linear layers of tokens multiply in f8e4m3, small ones and those of one vector do not") {
  for (auto [k, n, fp8] : {std::tuple{64, 64, 1}, {64, 48, 0}, {48, 64, 0}, {72, 64, 0}, {64, 72, 0}, {128, 80, 1}}) {
    CAPTURE(k);
    CAPTURE(n);
    TokenNetwork net;
    net.graph.output("y", net.layer(net.tokens(k), "w", n));
    CHECK(Lowered(net.graph).fp8_linears() == size_t(fp8));
    CHECK(Lowered(net.graph, 0).fp8_linears() == 0);
  }
  TokenNetwork vector;
  Value x = vector.graph.input("x", {DType::bf16, {Dim::symbol("fp8_batch"), 64}});
  vector.graph.output("y", vector.layer(x, "w", 64));
  CHECK(Lowered(vector.graph).fp8_linears() == 0);
}

TEST_CASE("an f8e4m3 product reads what was quantised just before, dense, with a factor for each row") {
  TokenNetwork net;
  net.graph.output("y", net.layer(slice(net.tokens(256), 2, 32, 64), "w", 96));
  Lowered l(net.graph);
  REQUIRE(l.program.steps.size() == 2);
  const auto& quantise = *l.all<QuantiseStep>().at(0);
  const auto& product = *l.all<LinearStep>().at(0);
  Dim rows = Dim::symbol("fp8_batch") * Dim::symbol("fp8_tokens");
  CHECK(quantise.type == DType::bf16);
  CHECK(quantise.k == 64);
  CHECK(quantise.batch * quantise.m == rows);
  CHECK(quantise.x_stride == Dim(256));
  CHECK(quantise.x.offset == Dim(32));
  CHECK(product.a.buffer == quantise.out.buffer);
  CHECK(product.a_scales.buffer == quantise.scales.buffer);
  CHECK(product.a_stride == Dim(64));
  CHECK(product.tail->out_type == DType::bf16);
  const WeightSlot& slot = l.program.weights.at(size_t(product.weight));
  CHECK(slot.form == WeightSlot::e4m3_rows);
  CHECK(l.program.temporaries.at(size_t(quantise.out.buffer.index)).bytes == rows * Dim(64));
  CHECK(l.program.temporaries.at(size_t(quantise.scales.buffer.index)).bytes == rows * Dim(4));
}

TEST_CASE("rows that are no single matrix are quantised batch by batch") {
  TokenNetwork net;
  Dim half = Dim::symbol("fp8_half");
  Value x = net.graph.input("x", {DType::bf16, {Dim::symbol("fp8_batch"), half * 2, 64}});
  net.graph.output("y", net.layer(slice(x, 1, half, half), "w", 64));
  Lowered l(net.graph);
  const auto& quantise = *l.all<QuantiseStep>().at(0);
  CHECK(quantise.batch == Dim::symbol("fp8_batch"));
  CHECK(quantise.m == half);
  CHECK(quantise.x_batch_stride == half * Dim(128));
  CHECK(l.all<LinearStep>().at(0)->batch == Dim(1));  // the result of quantising is dense
}

TEST_CASE("layers that read the same rows share what was quantised, and other rows are quantised apart") {
  TokenNetwork net;
  Value x = net.tokens(64);
  // Residuals: layers that are followed by a sum are not joined into one.
  Value y = net.layer(x, "a", 64) + x, z = net.layer(x, "b", 64) + y;
  net.graph.output("y", z);
  net.graph.output("w", net.layer(y, "c", 64) + z);
  Lowered l(net.graph);
  CHECK(l.fp8_linears() == 3);
  CHECK(l.all<QuantiseStep>().size() == 2);
  CHECK(l.all<LinearStep>().at(0)->a.buffer == l.all<LinearStep>().at(1)->a.buffer);
  CHECK(!(l.all<LinearStep>().at(2)->a.buffer == l.all<LinearStep>().at(0)->a.buffer));
}

TEST_CASE("programs of FLUX blocks with f8e4m3 products read back to the same bytes") {
  Graph whole;
  FluxConfig c;
  c.width = 128, c.in_channels = c.out_channels = 4, c.head_size = 32, c.mlp = 256, c.context_width = 64, c.vector_width = 32;
  c.double_blocks = c.single_blocks = 1, c.axes = {4, 14, 14};
  auto size = [](const char* name) { return Dim::symbol(name); };
  build_flux(whole, c, {size("batch"), size("height"), size("width"), size("text")}, {.compute = DType::bf16, .storage = {}});
  size_t fp8 = 0, quantised = 0;
  for (Value v : topological_order(whole)) {
    if (v->op != &call_op) continue;
    Lowered l(v->attrs.as<CallAttrs>().function->graph);
    auto bytes = to_bytes(l.program, l.graph);
    CHECK(to_bytes(program_from_bytes(bytes, l.graph), l.graph) == bytes);
    fp8 += l.fp8_linears();
    quantised += l.all<QuantiseStep>().size();
  }
  // qkv, proj and two of the MLP for each of two streams; linear1 in two parts, linear2.
  CHECK(fp8 == 8 + 3);
  CHECK(quantised <= 8 + 2);
}

TEST_CASE("a program with an f8e4m3 product of other weights, or of none, is corrupt") {
  TokenNetwork net;
  net.graph.output("y", net.layer(net.tokens(64), "w", 64));
  Lowered l(net.graph);
  auto refused = [&](auto change) {
    Program p = l.program;
    change(p);
    CHECK_THROWS_AS(validate(p, l.graph), Error);
  };
  refused([](Program& p) { p.weights[0].form = WeightSlot::rows; });
  refused([](Program& p) { std::get<LinearStep>(p.steps[1]).a_scales.buffer.index = 99; });
  refused([](Program& p) { std::get<LinearStep>(p.steps[1]).tail.reset(); });
  refused([](Program& p) { std::get<QuantiseStep>(p.steps[0]).out.buffer = {BufferRef::parameter, 0}; });
  refused([](Program& p) { std::get<QuantiseStep>(p.steps[0]).k = 0; });
}
