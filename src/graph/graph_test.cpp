#include "graph/graph.h"

#include <doctest/doctest.h>

#include <set>

#include "graph/interpreter.h"
#include "graph/ops.h"
#include "random_graph.h"
#include "tensor/random.h"

using namespace sinter;

namespace {

constexpr uint32_t kGraphs = 60;

std::string renamed(const std::string& name) { return "other." + name; }

/// The same structure made in another order, under other names, among nodes that nobody uses.
void shuffle_copy(const Graph& from, Graph& to, std::mt19937& random) {
  std::map<const Node*, Value> copies;
  for (Value input : from.inputs()) copies[input.node()] = to.input(renamed(input->attrs.as<NameAttrs>().name), input->type);
  std::vector<Value> waiting = topological_order(from);
  std::map<const Function*, std::shared_ptr<const Function>> functions;
  auto copy = [&](const Node& n) {
    std::vector<Value> inputs;
    for (Value input : n.inputs) inputs.push_back(copies.at(input.node()));
    Attrs attrs = n.attrs;
    if (n.op == &weight_op) {
      auto named = attrs.as<NameAttrs>();
      named.name = renamed(named.name);
      attrs = Attrs::of(named);
    } else if (n.op == &call_op) {
      auto call = attrs.as<CallAttrs>();
      auto& function = functions[call.function.get()];
      if (!function) {
        auto made = std::make_shared<Function>();
        made->name = renamed(call.function->name);
        shuffle_copy(call.function->graph, made->graph, random);
        function = made;
      }
      attrs = Attrs::of(CallAttrs{function, renamed(call.prefix)});
    }
    copies[&n] = to.add(*n.op, inputs, attrs);
  };
  while (!waiting.empty()) {
    size_t at = random() % waiting.size();
    const Node& n = *waiting[at];
    bool ready = std::all_of(n.inputs.begin(), n.inputs.end(), [&](Value v) { return copies.contains(v.node()); });
    if (!ready) continue;
    if (!copies.contains(&n)) copy(n);
    waiting.erase(waiting.begin() + long(at));
    if (random() % 4 == 0) to.weight("unused" + std::to_string(random() % 100), {DType::f32, {2}});
  }
  for (const Output& output : from.outputs()) to.output(renamed(output.name), copies.at(output.value.node()));
}

std::vector<Tensor> run(const Graph& g) {
  std::map<std::string, Tensor> inputs;
  for (Value input : g.inputs()) {
    std::vector<int64_t> shape;
    for (const Dim& dim : input.shape()) shape.push_back(dim.constant());
    inputs[input->attrs.as<NameAttrs>().name] = RandomGenerator(uint64_t(shape.size())).randn(shape);
  }
  std::map<std::string, Tensor> weights;
  for (const WeightUse& use : weights_of(g))
    weights[use.name] =
        RandomGenerator(digest_of(use.name).low).randn({use.type.shape[0].constant(), use.type.shape[1].constant()});
  return interpret(g, inputs, [&](const std::string& name) { return weights.at(name); });
}

Graph& image_graph(Graph& g, const std::string& tall, const std::string& wide, bool wide_first) {
  SymbolFacts facts{8, 4096, 8};
  if (wide_first) Dim::symbol(wide, facts);
  Dim h = Dim::symbol(tall, facts), w = Dim::symbol(wide, facts);
  Value x = g.input("x", {DType::f32, {h * w + w, 3}}), y = g.input("y", {DType::f32, {h, w, 3}});
  Value z = conv2d(reshape(y, {1, h, w, 3}), g.weight("k", {DType::f32, {3, 3, 2, 2}}), {2});
  g.output("x", silu(x)), g.output("z", reduce_sum(z, {1}));
  return g;
}

}  // namespace

TEST_CASE("the digest of a graph does not know names, order of creation and unused nodes") {
  for (uint32_t seed = 0; seed < kGraphs; ++seed) {
    INFO("seed ", seed);
    RandomGraph random(seed);
    Graph graph, other;
    random.fill(graph, 15);
    shuffle_copy(graph, other, random.bits());
    verify(graph);
    verify(other);
    CHECK(structure_digest(graph) == structure_digest(other));
  }
}

TEST_CASE("the digest does not know in which order symbols were made, or their names") {
  Graph a, b, c;
  Digest first = structure_digest(image_graph(a, "graph_test_h1", "graph_test_w1", false));
  CHECK(structure_digest(image_graph(b, "graph_test_h2", "graph_test_w2", true)) == first);
  CHECK(structure_digest(image_graph(c, "graph_test_z3", "graph_test_a3", true)) == first);
}

TEST_CASE("random graphs have digests of their own, and facts about symbols count") {
  std::set<Digest> seen;
  for (uint32_t seed = 0; seed < kGraphs; ++seed) {
    Graph graph;
    RandomGraph(seed).fill(graph, 15);
    seen.insert(structure_digest(graph));
  }
  CHECK(seen.size() == kGraphs);
  auto digest = [](const std::string& name, SymbolFacts facts) {
    Graph g;
    g.output("y", silu(g.input("x", {DType::f32, {Dim::symbol(name, facts)}})));
    return structure_digest(g);
  };
  CHECK(digest("graph_test_f1", {1, 100, 1}) == digest("graph_test_f2", {1, 100, 1}));
  CHECK(digest("graph_test_f1", {1, 100, 1}) != digest("graph_test_f3", {1, 100, 2}));
}

TEST_CASE("another value of any attribute is another digest") {
  int changed = 0;
  for (const OpDef* op : all_ops()) {
    if (!op->read_attrs || op == &input_op) continue;
    for (const Sample& sample : op->samples()) {
      Graph graph;
      std::vector<Value> inputs;
      for (const Type& type : sample.inputs) inputs.push_back(graph.input("x" + std::to_string(inputs.size()), type));
      graph.output("y", sample.build(inputs));
      Digest original = structure_digest(graph);
      AttrTexts texts;
      for (Value value : topological_order(graph))
        if (value->op == op)
          for (auto& [field, text] : value->attrs.texts()) texts[field] = text;
      for (auto& [field, text] : texts) {
        bool number = !text.empty() && text.find_first_not_of("0123456789.e-") == text.npos,
             flag = text == "true" || text == "false";
        if (!number && !flag) continue;
        AttrTexts changed_texts = texts;
        changed_texts[field] = flag ? (text == "true" ? "false" : "true") : text == "1" ? "2" : "1";
        Graph other;
        try {
          copy_graph(graph, other, {}, [&](const Node& n, std::span<const Value> in, Graph& to) -> Value {
            return n.op == op ? to.add(*op, {in.begin(), in.end()}, op->read_attrs(changed_texts)) : Value();
          });
        } catch (const Error&) {
          continue;  // not every value fits
        }
        INFO("op ", std::string(op->name), " field ", field);
        CHECK(structure_digest(other) != original);
        ++changed;
      }
    }
  }
  CHECK(changed > 25);
}

TEST_CASE("a copy has the same digest, the same weights and the same values") {
  for (uint32_t seed = 0; seed < kGraphs; ++seed) {
    INFO("seed ", seed);
    Graph graph, copy;
    RandomGraph(seed).fill(graph, 12);
    copy_graph(graph, copy);
    verify(copy);
    CHECK(structure_digest(copy) == structure_digest(graph));
    CHECK(copy.nodes().size() <= graph.nodes().size());
    auto before = run(graph), after = run(copy);
    REQUIRE(before.size() == after.size());
    for (size_t i = 0; i < before.size(); ++i) {
      CHECK(before[i].shape() == after[i].shape());
      CHECK(digest_of(before[i].data(), size_t(before[i].bytes())) == digest_of(after[i].data(), size_t(after[i].bytes())));
    }
  }
}

TEST_CASE("a copy under bindings has only numbers for sizes, in called functions too") {
  Dim rows = Dim::symbol("graph_test_rows");
  auto function = std::make_shared<Function>();
  Value p = function->graph.input("p", {DType::f32, {rows, 4}});
  function->graph.output("y", reshape(p, {rows * 4}));
  Graph graph, bound;
  Value x = graph.input("x", {DType::f32, {rows, 4}});
  graph.output("y", call(function, {x}, "a.")[0] + call(function, {x * 2.0}, "b.")[0]);
  std::vector<SymbolId> ids;
  rows.collect_symbols(ids);
  copy_graph(graph, bound, {{ids[0], 5}});
  verify(bound);
  CHECK(bound.outputs()[0].value->type.text() == "f32[20]");
  std::set<const Function*> functions;
  for (const Node& node : bound.nodes())
    if (node.op == &call_op) functions.insert(node.attrs.as<CallAttrs>().function.get());
  CHECK(functions.size() == 1);  // still compiled once
}

TEST_CASE("nodes of equal content are one node, and errors name op and types") {
  Graph g;
  Value x = g.input("x", {DType::f32, {2, 3}});
  CHECK(silu(x) == silu(x));
  CHECK(reduce_sum(x, {0}) == reduce_sum(x, {-2}));
  CHECK(reduce_sum(x, {0}) != reduce_sum(x, {1}));
  CHECK(reshape(x, {2, 3}) == x);
  CHECK(transpose(x, {0, 1}) == x);
  CHECK(cast(x, DType::f32) == x);
  CHECK(broadcast(x, {2, 3}) == x);
  CHECK(slice(x, 1, 0, 3) == x);
  CHECK(concat({x}, 0) == x);
  CHECK_THROWS_WITH(matmul(x, x), "matmul(f32[2, 3], f32[2, 3]): the inner sizes differ, 3 and 2");
  CHECK_THROWS_WITH(g.input("x", {DType::f16, {2}}), doctest::Contains("'x' is f32[2, 3] already"));
}

TEST_CASE("one weight name with two types is refused where weights are listed") {
  Graph g;
  g.output("y", reduce_sum(g.weight("w", {DType::f32, {2}}), {0}) + g.weight("w", {DType::f32, {1}}));
  CHECK_THROWS_WITH(weights_of(g), "the weight 'w' is used as f32[2] and as f32[1]");
}
