#include "compiler/lowering/fp8_attention.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "backends/cuda/schedules.h"
#include "compiler/lowering/lower.h"
#include "compiler/lowering/lowered_ops.h"
#include "graph/ops.h"
#include "lowered.h"
#include "models/flux.h"
#include "models/unet.h"

using namespace sinter;

namespace {

struct Fp8Lowered : Lowered {
  explicit Fp8Lowered(const Graph& source, const LowerOptions& options = {.vendor = true, .fp8_width = 64, .fp8_keys = 16})
      : Lowered(source, options) {}
};

/// Self-attention with normalised heads of 32, two of them.
struct Network {
  Graph graph;
  Dim tokens = Dim::symbol("fp8a_tokens");
  Value input(const char* name, DType type, Shape shape) { return graph.input(name, {type, std::move(shape)}); }
  Value norm(Value x, const char* weight) {
    return rms_norm(x, 1e-6) * cast(graph.weight(weight, {DType::f16, {x.dim(-1)}}), DType::bf16);
  }
  Value part(Value qkv, int64_t i) { return reshape(slice(qkv, 2, 64 * i, 64), {qkv.dim(0), qkv.dim(1), 2, 32}); }
  Value turn(Value x) {
    Value wide = cast(x, DType::f32);
    Shape table{1, x.dim(1), 1, 32};
    return cast(wide * input("cos", DType::f32, table) + swap_pairs(wide) * input("sin", DType::f32, table), x.dtype());
  }
  Value qkv() { return input("qkv", DType::bf16, {Dim::symbol("fp8a_batch"), tokens, 192}); }
};

FluxConfig small_flux() {
  FluxConfig c;
  c.width = 128, c.in_channels = c.out_channels = 4, c.head_size = 32, c.mlp = 256, c.context_width = 64, c.vector_width = 32;
  c.double_blocks = c.single_blocks = 1, c.axes = {4, 14, 14};
  return c;
}
void build_small_flux(Graph& graph) {
  auto size = [](const char* name) { return Dim::symbol(name); };
  build_flux(graph, small_flux(), {size("batch"), size("height"), size("width"), size("text")},
             {.compute = DType::bf16, .storage = {}});
}

}  // namespace

TEST_CASE("normalised self-attention multiplies in f8e4m3, and what makes q, k and v stores it so") {
  Network net;
  Value qkv = net.qkv();
  Value q = net.turn(net.norm(net.part(qkv, 0), "q")), k = net.turn(net.norm(net.part(qkv, 1), "k"));
  net.graph.output("y", attention(q, k, net.part(qkv, 2), {.scale = 0.2}));
  CHECK(why_no_fp8_attention(net.graph, 16) == "");
  Fp8Lowered l(net.graph);
  REQUIRE(l.all<AttentionStep>().size() == 1);
  const AttentionStep& step = *l.all<AttentionStep>()[0];
  CHECK(step.in == DType::f8e4m3);
  CHECK(step.out_type == DType::f8e4m3);
  CHECK(step.scale == 0.2);
  CHECK(step.unit.buffer.space == BufferRef::temporary);
  // The unit of q and k; q, k; that of v in two kernels, v; the result as bf16.
  CHECK(l.all<RowStep>().size() == 1 + 2 + 3 + 1);
  for (const HeadPlace* p : {&step.q, &step.k, &step.v}) {
    int writers = 0;
    for (const RowStep* row : l.all<RowStep>()) {
      if (!(row->use.operands.back().buffer == p->at.buffer)) continue;
      ++writers;
      CHECK(l.program.kernels.at(size_t(row->use.kernel)).operands.back().dtype == DType::f8e4m3);
    }
    CHECK(writers == 1);
  }
  CHECK(Fp8Lowered(net.graph, {.vendor = true}).all<AttentionStep>()[0]->in == DType::bf16);
}

TEST_CASE("attention whose range is not known, with a mask, of other tokens, few of them or odd heads stays, with a reason") {
  auto why = [](auto make, int64_t keys = 16) {
    Network net;
    net.graph.output("y", make(net));
    for (const AttentionStep* step : Fp8Lowered(net.graph, {.vendor = true, .fp8_keys = keys}).all<AttentionStep>())
      CHECK(step->in == DType::bf16);
    return why_no_fp8_attention(net.graph, keys);
  };
  auto has = [](const std::string& text, const char* words) { return text.find(words) != text.npos; };
  CHECK(has(why([](Network& net) {
              Value qkv = net.qkv();
              return attention(net.norm(net.part(qkv, 0), "q"), net.part(qkv, 1), net.part(qkv, 2), {.scale = 1});
            }),
            "not normalised"));
  CHECK(has(why([](Network& net) {
              Value q = net.norm(net.part(net.qkv(), 0), "q");
              return attention(q, q, q, {.scale = 1, .causal = true});
            }),
            "mask"));
  CHECK(has(why([](Network& net) {
              Value q = net.norm(net.part(net.qkv(), 0), "q");
              Value other = net.norm(net.input("other", DType::bf16, {q.dim(0), 77, 2, 32}), "k");
              return attention(q, other, other, {.scale = 1});
            }),
            "no self-attention"));
  auto of = [](int64_t tokens, int64_t size) {
    return [=](Network& net) {
      Value q = net.norm(net.input("q", DType::bf16, {1, tokens, 2, size}), "w");
      return attention(q, q, q, {.scale = 1});
    };
  };
  CHECK(has(why(of(1000, 32), 1024), "1000 tokens are fewer than the 1024"));
  CHECK(has(why(of(2000, 40), 1024), "heads have 40 elements"));
  CHECK(has(why([](Network& net) { return silu(net.qkv()); }), "no self-attention"));
}

TEST_CASE("values of one product that q, k and v are parts of are looked through in long rows, and their parts stored densely") {
  Network net;
  Value qkv = net.qkv();
  Value q = net.norm(net.part(qkv, 0), "q"), k = net.norm(net.part(qkv, 1), "k");
  net.graph.output("y", attention(q, k, net.part(qkv, 2), {.scale = 1}));
  Fp8Lowered l(net.graph);
  const AttentionStep& step = *l.all<AttentionStep>().at(0);
  CHECK(step.v.t == Dim(64));
  CHECK(step.v.h == Dim(32));
  auto reads_v = [&](const RowStep* row) {
    const OperandUse& first = row->use.operands.at(0);
    return first.buffer == BufferRef{BufferRef::parameter, 0} && first.offset == Dim(128);
  };
  auto rows = l.all<RowStep>();
  CHECK(std::count_if(rows.begin(), rows.end(), reads_v) == 2);
  for (const RowStep* row : rows)
    if (reads_v(row)) CHECK(row->use.columns == Dim(64));
}

TEST_CASE(
    "FLUX blocks with f8e4m3 attention: one unit for each block, parts in their places, results quantised where they are read") {
  Graph whole;
  build_small_flux(whole);
  CHECK(why_no_fp8_attention(whole, 16) == "");
  for (Value v : topological_order(whole)) {
    if (v->op != &call_op) continue;
    const Function& function = *v->attrs.as<CallAttrs>().function;
    CAPTURE(function.name);
    Fp8Lowered l(function.graph);
    auto bytes = to_bytes(l.program, l.graph);
    CHECK(to_bytes(program_from_bytes(bytes, l.graph), l.graph) == bytes);
    REQUIRE(l.all<AttentionStep>().size() == 1);
    CHECK(l.all<AttentionStep>()[0]->in == DType::f8e4m3);
    auto written_as = [&](DType type) {
      size_t count = 0;
      for (const RowStep* row : l.all<RowStep>()) {
        const RowKernel& kernel = l.program.kernels.at(size_t(row->use.kernel));
        count += size_t(std::count_if(kernel.operands.begin(), kernel.operands.end(),
                                      [&](const KernelOperand& o) { return o.written && o.dtype == type; }));
      }
      return count;
    };
    if (function.name == "double block") {
      // Two streams: q and k of each, v of both; two modulated rows of each; attention's result of each.
      CHECK(written_as(DType::f8e4m3) == 2 * 2 + 1 + 2 * 2 + 2);
      CHECK(l.all<QuantiseStep>().size() == 2);  // GELU
    } else {
      CHECK(written_as(DType::f8e4m3) == 3 + 1);
      CHECK(l.all<QuantiseStep>().size() == 1);
    }
    cuda::schedule_kernels(l.program);
  }
}

TEST_CASE("of U-Nets no attention is made in f8e4m3: their queries and keys are not normalised") {
  Graph graph;
  auto size = [](const char* name) { return Dim::symbol(name); };
  build_unet(graph, sdxl_unet_config(), {size("batch"), size("height"), size("width"), size("text")},
             {.compute = DType::bf16, .storage = {}});
  CHECK(why_no_fp8_attention(graph, kFp8Keys).find("not normalised") != std::string::npos);
}

TEST_CASE("a program whose f8e4m3 attention has a mask, another result or no unit is corrupt") {
  Network net;
  Value q = net.norm(net.part(net.qkv(), 0), "q");
  net.graph.output("y", attention(q, q, q, {.scale = 1}));
  Fp8Lowered l(net.graph);
  auto refused = [&](auto change) {
    Program p = l.program;
    for (Step& step : p.steps)
      if (auto* attention = std::get_if<AttentionStep>(&step)) change(*attention);
    CHECK_THROWS_AS(validate(p, l.graph), Error);
  };
  refused([](AttentionStep& s) { s.causal = true; });
  refused([](AttentionStep& s) { s.out_type = DType::bf16; });
  refused([](AttentionStep& s) { s.unit.buffer.index = 99; });
}
