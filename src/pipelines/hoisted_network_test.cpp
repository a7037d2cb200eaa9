#include "pipelines/hoisted_network.h"

#include <doctest/doctest.h>

#include <cstring>

#include "graph/ops.h"
#include "models/scope.h"
#include "refusal.h"

using namespace sinter;

namespace {

const Dim kRows = Dim::symbol("hoisted_rows"), kTokens = Dim::symbol("hoisted_tokens");
constexpr int64_t kWidth = 8;

/// Two blocks that attend to a context and add what depends on a time.
std::unique_ptr<Graph> small_graph() {
  auto graph = std::make_unique<Graph>();
  static const BuildOptions options;
  Scope s(*graph, options);
  Value x = graph->input("x", {DType::f32, {kRows, 5, kWidth}});
  Value context = graph->input("context", {DType::f32, {kRows, kTokens, 6}}), time = graph->input("time", {DType::f32, {kRows}});
  Value waves = silu(linear_layer(s / "time", timestep_embedding(time, 4), 12));
  for (int64_t i = 0; i < 2; ++i)
    x = (s / "blocks" / i).block("block", {x, context, waves}, [](Scope b, std::vector<Value> v) {
      auto heads = [](Value y) { return reshape(y, {y.dim(0), y.dim(1), 2, kWidth / 2}); };
      Value q = heads(linear_layer(b / "q", v[0], kWidth)), k = heads(linear_layer(b / "k", v[1], kWidth));
      Value attended = attention(q, k, heads(linear_layer(b / "v", v[1], kWidth)), {.scale = 0.5});
      Value shift = reshape(linear_layer(b / "shift", v[2], kWidth), {v[0].dim(0), 1, kWidth});
      return std::vector{v[0] + reshape(attended, v[0].shape()) + shift};
    })[0];
  graph->output("y", x);
  return graph;
}

Tensor drawn(std::vector<int64_t> shape, uint32_t seed) {
  Tensor t(DType::f32, std::move(shape));
  for (float& v : t.f32()) v = float((seed = seed * 1664525 + 1013904223) >> 8) / float(1 << 23) - 1;
  return t;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), size_t(a.bytes())) == 0;
}

struct Setup {
  Session session;
  std::map<std::string, int> read;  // how often each weight was
  WeightReader reader;
  std::unique_ptr<Network> whole;
  std::unique_ptr<HoistedNetwork> hoisted;

  explicit Setup(Backend backend = Backend::Native) : session({.backend = backend, .threads = 2}, {.memory_only = true}) {
    auto graph = small_graph();
    auto weights = std::make_shared<std::map<std::string, Tensor>>();
    for (const WeightUse& use : weights_of(*graph)) {
      std::vector<int64_t> shape;
      for (const Dim& dim : use.type.shape) shape.push_back(dim.constant());
      (*weights)[use.name] = drawn(shape, uint32_t(weights->size()));
    }
    reader = [weights](const std::string& name) { return weights->at(name); };
    whole = std::make_unique<Network>(session, "whole", small_graph(), reader);
    auto counting = [this](const std::string& name) {
      ++read[name];
      return reader(name);
    };
    hoisted = std::make_unique<HoistedNetwork>("step", std::move(graph),
                                               std::vector<SteadyInputs>{{"prompt", {"context"}, true}, {"time", {"time"}}},
                                               [this, counting](const std::string& label, std::unique_ptr<Graph> part) {
                                                 return std::make_unique<Network>(session, label, std::move(part), counting);
                                               });
  }

  /// Compiled sums may be divided otherwise where there are more rows.
  bool agree(const NamedTensors& inputs) {
    double most = session.options().backend == Backend::Reference ? 0 : 1e-6;
    return relative_error(hoisted->run(inputs).at(0), whole->run(inputs).at(0)) <= most;
  }
};

}  // namespace

TEST_CASE("cross-attention keys and values are computed once a prompt, and their weights are gone in the steps") {
  for (Backend backend : {Backend::Native, Backend::Eager, Backend::Reference}) {
    Setup s(backend);
    Tensor context = drawn({2, 7, 6}, 1), times = drawn({4}, 2);
    s.hoisted->prepare({{{"context", context}}, {{"time", times}}});
    int keys = s.read["blocks.0.k.weight"];
    CHECK(keys > 0);
    for (int64_t step = 0; step < 4; ++step) {
      Tensor time = Tensor::of({2}, std::vector<float>(2, times.f32()[size_t(step)]));
      CHECK(s.agree({{"x", drawn({2, 5, kWidth}, uint32_t(step))}, {"context", context}, {"time", time}}));
    }
    for (const char* name : {"blocks.0.k.weight", "blocks.1.v.weight"}) CHECK(s.read[name] == keys);
    int shifts = s.read["blocks.0.shift.weight"];
    Tensor unforeseen = Tensor::of({2}, std::vector<float>{0.25f, 0.5f});
    CHECK(s.agree({{"x", drawn({2, 5, kWidth}, 9)}, {"context", context}, {"time", unforeseen}}));
    CHECK(s.read["blocks.0.shift.weight"] > shifts);
    CHECK(s.read["blocks.0.k.weight"] == keys);
  }
}

TEST_CASE("rows are computed once each: equal rows of a batch share one, and a known prompt comes back in any order") {
  Setup s;
  RowTable& prompts = *s.hoisted->tables()[0];
  REQUIRE(prompts.for_a_run());
  Tensor two = drawn({2, 7, 6}, 1), mixed(DType::f32, {3, 7, 6});
  for (int64_t to = 0; to < 3; ++to)
    std::copy_n(two.rows(to % 2, to % 2 + 1).data(), two.bytes() / 2, mixed.rows(to, to + 1).data());
  NamedTensors first = prompts.rows({{"context", two}});
  int reads = s.read["blocks.0.k.weight"];
  prompts.prepare({{{"context", two}}});  // its weights leave
  NamedTensors again = prompts.rows({{"context", two}}), joined = prompts.rows({{"context", mixed}});
  CHECK(s.read["blocks.0.k.weight"] == reads);
  for (const auto& [name, value] : joined) {
    CHECK(again.at(name).data() == first.at(name).data());
    for (int64_t row = 0; row < 3; ++row)
      CHECK(same_bits(value.rows(row, row + 1).clone(), first.at(name).rows(row % 2, row % 2 + 1).clone()));
  }
}

TEST_CASE("other prompts, numbers of rows and weights give other values and compile nothing") {
  Setup s;
  NamedTensors inputs{{"x", drawn({2, 5, kWidth}, 1)}, {"context", drawn({2, 7, 6}, 2)}, {"time", drawn({2}, 3)}};
  CHECK(s.agree(inputs));
  int compiled = s.session.compiled().compiled;
  inputs["context"] = drawn({2, 7, 6}, 4);
  CHECK(s.agree(inputs));
  inputs["context"] = drawn({2, 9, 6}, 5);
  CHECK(s.agree(inputs));
  CHECK(s.agree({{"x", drawn({3, 5, kWidth}, 1)}, {"context", drawn({3, 7, 6}, 2)}, {"time", drawn({3}, 3)}}));
  s.reader = [before = s.reader](const std::string& name) {
    return name == "blocks.1.k.weight" ? drawn({kWidth, 6}, 77) : before(name);
  };
  Tensor old = s.hoisted->run(inputs).at(0);
  s.hoisted->weights_changed({"blocks.1.k.weight"});
  CHECK(!same_bits(s.hoisted->run(inputs).at(0), old));
  CHECK(s.session.compiled().compiled == compiled);
}

TEST_CASE("an input that is kept is not copied again while its tensor is the same, and is when it is another") {
  Session session({.threads = 1}, {.memory_only = true});
  auto graph = std::make_unique<Graph>();
  Value x = graph->input("x", {DType::f32, {kRows}}), kept = graph->input("kept", {DType::f32, {kRows}});
  graph->output("y", x + kept);
  Network network(session, "sum", std::move(graph), {});
  network.keep_inputs({"kept"});
  Tensor one = Tensor::of({1}, std::vector<float>{1}), ten = Tensor::of({1}, std::vector<float>{10});
  auto sum = [&](const Tensor& a, const Tensor& b) { return network.run({{"x", a}, {"kept", b}}).at(0).f32()[0]; };
  CHECK(sum(one, ten) == 11);
  ten.f32()[0] = 20;  // what nobody may do shows that it was not looked at
  CHECK(sum(one, ten) == 11);
  CHECK(sum(ten, ten) == 30);
  CHECK(sum(one, ten.clone()) == 21);
  CHECK(network.kept_bytes(sizes_of(network.graph(), {{"x", one}})) >= 4);
}

TEST_CASE("rows refuse inputs that are missing or of unequal numbers of rows") {
  Setup s;
  RowTable& prompts = *s.hoisted->tables()[0];
  CHECK(contains(refusal([&] { prompts.rows({}); }), "the input 'context' is missing"));
  CHECK(contains(refusal([&] { prompts.rows({{"context", Tensor(DType::f32, {0, 7, 6})}}); }), "has 0 rows"));
}
