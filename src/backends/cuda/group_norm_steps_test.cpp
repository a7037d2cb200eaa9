#include "backends/cuda/group_norm_steps.h"

#include <doctest/doctest.h>

#include <set>

#include "graph/ops.h"
#include "lowered.h"
#include "models/unet.h"

namespace sinter::cuda {
namespace {

Bindings all_symbols_are(const Graph& graph, int64_t size) {
  std::vector<SymbolId> symbols;
  for (Value v : topological_order(graph))
    for (const Dim& dim : v.shape()) dim.collect_symbols(symbols);
  Bindings bindings;
  for (SymbolId symbol : symbols) bindings[symbol] = size;
  return bindings;
}

struct Found {
  int norms = 0, silu = 0, statistics = 0;
};
Found found_in(const Graph& source, const LowerOptions& options = {.vendor = true}) {
  const Lowered lowered(source, options);
  Found found;
  for (size_t i = 0; i < lowered.program.steps.size(); ++i) {
    if (!std::holds_alternative<GroupStatsStep>(lowered.program.steps[i])) continue;
    ++found.statistics;
    const auto steps = group_norm_steps(lowered.program, i, all_symbols_are(lowered.graph, 8));
    found.norms += steps.has_value(), found.silu += steps && steps->silu;
  }
  return found;
}

void add_functions(const Graph& graph, std::set<const Graph*>& all) {
  if (!all.insert(&graph).second) return;
  for (Value v : topological_order(graph))
    if (v->op == &call_op) add_functions(v->attrs.as<CallAttrs>().function->graph, all);
}

/// A group norm and what `finish` makes of it.
template <class Finish>
Found found_behind(const Finish& finish, DType type = DType::bf16, const LowerOptions& options = {.vendor = true}) {
  Graph graph;
  const Dim side = Dim::symbol("steps_side");
  Value x = graph.input("x", {type, {Dim::symbol("steps_batch"), side, side, 64}});
  Value gamma = graph.weight("gamma", {type, {64}}), beta = graph.weight("beta", {type, {64}});
  graph.output("y", finish(graph, x, group_norm(x, gamma, beta, 32, 1e-5)));
  return found_in(graph, options);
}

TEST_CASE("every group norm of the U-Nets, and what is fused with it, is one that can be a launch of its own") {
  for (const UnetConfig& config : {sd15_unet_config(), sdxl_unet_config()}) {
    Graph graph;
    const Dim batch = Dim::symbol("batch"), rows = Dim::symbol("height"), columns = Dim::symbol("width"),
              text = Dim::symbol("text");
    build_unet(graph, config, {batch, rows, columns, text}, {.compute = DType::bf16, .storage = {}});
    std::set<const Graph*> all;
    add_functions(graph, all);
    int statistics = 0;
    for (const Graph* function : all) {
      const Found found = found_in(*function);
      CHECK(found.norms == found.statistics);
      statistics += found.statistics;
    }
    CHECK(statistics > 10);
  }
}

TEST_CASE("a group norm is recognised with its SiLU or alone, and nothing else is taken for one") {
  auto alone = [](Graph&, Value, Value y) { return y; };
  auto with_silu = [](Graph&, Value, Value y) { return silu(y); };
  for (DType type : {DType::bf16, DType::f16}) {
    CHECK(found_behind(alone, type).norms == 1);
    CHECK(found_behind(alone, type).silu == 0);
    CHECK(found_behind(with_silu, type).silu == 1);
  }
  CHECK(found_behind(with_silu, DType::f32).norms == 0);
  CHECK(found_behind(with_silu, DType::bf16, {.fuse = false, .vendor = true}).norms == 0);
  CHECK(found_behind([](Graph&, Value, Value y) { return gelu(y); }).norms == 0);
  CHECK(found_behind([](Graph&, Value x, Value y) { return silu(y) + x; }).norms == 0);
  CHECK(found_behind([](Graph&, Value, Value y) { return slice(silu(y), 1, 0, 4); }).norms == 0);
  CHECK(found_behind([](Graph&, Value, Value y) { return transpose(silu(y), {0, 2, 1, 3}); }).norms == 0);
  CHECK(found_behind([](Graph&, Value, Value y) { return cast(y, DType::f32); }).norms == 0);
}

TEST_CASE("a group norm is none of one launch where its statistics are read again, or other addresses are") {
  Graph graph;
  const Dim side = Dim::symbol("steps_side");
  Value x = graph.input("x", {DType::bf16, {2, side, side, 64}});
  Value gamma = graph.weight("gamma", {DType::bf16, {64}}), beta = graph.weight("beta", {DType::bf16, {64}});
  graph.output("y", group_norm(x, gamma, beta, 32, 1e-5));
  const Lowered lowered(graph, {.vendor = true});
  REQUIRE(lowered.program.steps.size() == 2);
  auto recognised = [&](auto change) {
    Program program = lowered.program;
    change(program, std::get<RowStep>(program.steps[1]).use.operands);
    return group_norm_steps(program, 0, all_symbols_are(lowered.graph, 8)).has_value();
  };
  using Operands = std::vector<OperandUse>;
  CHECK(recognised([](Program&, Operands&) {}));
  CHECK_FALSE(recognised([](Program& p, Operands&) {
    for (Temporary& t : p.temporaries) ++t.last_step;
  }));
  CHECK_FALSE(recognised([](Program&, Operands& o) { o[0].offset = o[0].offset + Dim(64); }));
  CHECK_FALSE(recognised([](Program&, Operands& o) { o[1].strides[1] = 64; }));
  CHECK_FALSE(recognised([](Program&, Operands& o) { std::swap(o[1], o[2]); }));
  CHECK_FALSE(recognised([](Program&, Operands& o) { o[3].strides[0] = o[3].strides[0] + Dim(64); }));
}

TEST_CASE("a group norm of a part of wider rows, written into a part of wider rows, is recognised with its strides") {
  Graph graph;
  const Dim side = Dim::symbol("steps_side");
  const Type type{DType::bf16, {2, side, side, 96}};
  Value gamma = graph.weight("gamma", {type.dtype, {64}}), beta = graph.weight("beta", {type.dtype, {64}});
  Value wide = graph.input("x", type);
  graph.output("y", concat({slice(wide, 3, 0, 32), silu(group_norm(slice(wide, 3, 32, 64), gamma, beta, 32, 1e-5))}, 3));
  const Lowered lowered(graph, {.vendor = true});
  int seen = 0;
  for (size_t i = 0; i < lowered.program.steps.size(); ++i) {
    if (!std::holds_alternative<GroupStatsStep>(lowered.program.steps[i])) continue;
    const auto steps = group_norm_steps(lowered.program, i, all_symbols_are(lowered.graph, 8));
    REQUIRE(steps);
    CHECK(steps->out_stride == 96);
    CHECK(steps->out.offset == Dim(32));
    ++seen;
  }
  CHECK(seen == 1);
}

}  // namespace
}  // namespace sinter::cuda
