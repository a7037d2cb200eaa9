// What compiling once and planning ahead promise.
#include "backends/cpu/plan.h"

#include <doctest/doctest.h>

#include "backends/cpu/backend_test_help.h"
#include "random_network.h"

using namespace sinter;
using namespace sinter::cpu;

namespace {

/// `layers` equal blocks on [tokens, 16], under weight names and a symbol of the caller's choice.
void stack(Graph& graph, int layers, const std::string& symbol, const std::string& prefix) {
  BuildOptions options;
  Scope s(graph, options);
  Value x = graph.input("x", {DType::f32, {1, Dim::symbol(symbol), 16}});
  for (int64_t i = 0; i < layers; ++i)
    x = (s / prefix / i).block("layer", {x}, [](Scope inner, std::vector<Value> in) {
      return std::vector<Value>{in[0] +
                                linear_layer(inner / "out", gelu(linear_layer(inner / "in", layer_norm(in[0], 1e-5), 24)), 16)};
    })[0];
  graph.output("y", x);
}

struct Engines {
  Cache cache{{.memory_only = true}};
  cpu::Engine engine{cache, 2};
  CompileReport compile(const Graph& graph, bool fuse = true) {
    CompileReport report;
    CompiledGraph compiled(engine, graph, {fuse}, report);
    return report;
  }
};

/// Every unit below `unit` and itself, once each.
void units_of(const Unit& unit, std::vector<const Unit*>& out) {
  if (std::find(out.begin(), out.end(), &unit) != out.end()) return;
  for (const auto& callee : unit.callees) units_of(*callee.unit, out);
  out.push_back(&unit);
}

}  // namespace

TEST_CASE("a stack of equal blocks is compiled as one block and the graph around them") {
  Engines e;
  Graph six;
  stack(six, 6, "plan_tokens", "layers");
  CompileReport first = e.compile(six);
  CHECK(first.needed == 3);  // matrix kernels, block, graph
  CHECK(first.compiled == 3);
  CHECK(first.reasons.size() == 3);

  SUBCASE("and nothing is compiled again, not for other names of weights and sizes either") {
    CHECK(e.compile(six).compiled == 0);
    Graph other;
    stack(other, 6, "plan_other_tokens", "blocks");
    CompileReport second = e.compile(other);
    CHECK(second.compiled == 0);
    CHECK(second.cached == 3);
    CompileReport expected;
    CompiledGraph::foresee(e.engine, other, {}, expected);
    CHECK(expected.cached == 3);
  }
  SUBCASE("and more blocks compile the graph around them only, with a reason") {
    Graph seven;
    stack(seven, 7, "plan_tokens", "layers");
    CompileReport second = e.compile(seven);
    CHECK(second.compiled == 1);
    REQUIRE(second.reasons.size() == 1);
    CHECK(!second.reasons[0].empty());
  }
  SUBCASE("and fixed sizes compile for each size") {
    SymbolId tokens = six.inputs()[0].dim(1).terms()[0].symbols[0];
    for (int64_t size : {5, 6}) {
      Graph fixed;
      copy_graph(six, fixed, {{tokens, size}});
      CHECK(e.compile(fixed).compiled >= 1);
      CHECK(e.compile(fixed).compiled == 0);
    }
  }
}

TEST_CASE("one compiled graph runs at any size and with any weights") {
  TestBackend& backend = TestBackend::with_threads(4);
  Graph graph;
  stack(graph, 3, "plan_tokens", "layers");
  CompileReport report;
  CompiledGraph compiled(backend.engine, graph, {}, report);
  for (int64_t tokens : {1, 7, 64, 300}) {
    std::mt19937 random{uint32_t(tokens)};
    auto draw = [&](std::vector<int64_t> shape) {
      Tensor t(DType::f32, std::move(shape));
      for (float& x : t.f32()) x = float(random()) / 4294967296.f - 0.5f;
      return t;
    };
    std::map<std::string, Tensor> weights;
    for (const WeightUse& use : weights_of(graph)) {
      std::vector<int64_t> shape;
      for (const Dim& dim : use.type.shape) shape.push_back(dim.constant());
      weights[use.name] = draw(shape);
    }
    TestCase test{&graph, {{"x", draw({1, tokens, 16})}}, [&](const std::string& name) { return weights.at(name); }, {}};
    bind_shape(graph.inputs()[0].shape(), test.inputs.at("x").shape(), "x", test.bindings);
    Tensor expected = interpret(graph, test.inputs, test.weights, test.bindings)[0];
    TestRun run = run_compiled(test, backend, compiled);
    CHECK(run.stayed_inside);
    CHECK(distance(run.outputs[0], expected) < 1e-5);
  }
}

TEST_CASE("temporaries and workspaces that live at one time lie apart, within what their unit was given") {
  TestBackend& backend = TestBackend::with_threads(4);
  for (uint32_t seed = 0; seed < 40; ++seed) {
    CAPTURE(seed);
    RandomNetwork network(seed);
    Graph graph;
    network.fill(graph, 12);
    CompileReport report;
    CompiledGraph compiled(backend.engine, graph, {seed % 2 == 0}, report);
    Layout layout(compiled, network.bindings());
    std::vector<const Unit*> units;
    units_of(compiled.root(), units);
    for (const auto* unit : units) {
      const UnitLayout& at = layout.of(*unit);
      struct Piece {
        int64_t begin, end;
        int32_t first, last;
      };
      std::vector<Piece> pieces;
      for (size_t i = 0; i < at.temporaries.size(); ++i) {
        const Temporary& t = unit->program.temporaries[i];
        pieces.push_back({at.temporaries[i], at.temporaries[i] + t.bytes.value(network.bindings()), t.first_step, t.last_step});
      }
      for (size_t i = 0; i < unit->program.steps.size(); ++i)
        if (auto* call = std::get_if<CallStep>(&unit->program.steps[i])) {
          int64_t bytes = layout.of(*unit->callees[size_t(call->callee)].unit).bytes;
          pieces.push_back({at.scratch[i], at.scratch[i] + bytes, int32_t(i), int32_t(i)});
        }
      for (size_t i = 0; i < pieces.size(); ++i) {
        const Piece& a = pieces[i];
        CHECK(a.begin % 64 == 0);
        CHECK(a.end <= at.bytes);
        for (size_t j = 0; j < i; ++j) {
          const Piece& b = pieces[j];
          bool together = a.first <= b.last && b.first <= a.last, apart = a.end <= b.begin || b.end <= a.begin;
          if (together && a.begin < a.end && b.begin < b.end && !apart)
            CHECK_MESSAGE(apart, i << " and " << j << " of " << unit->label);
        }
      }
    }
  }
}
