#include "pipelines/network.h"

#include <doctest/doctest.h>

#include "graph/interpreter.h"
#include "graph/ops.h"

using namespace sinter;

namespace {

std::unique_ptr<Graph> small_graph() {
  auto graph = std::make_unique<Graph>();
  Value x = graph->input("x", {DType::f32, {Dim::symbol("network_rows"), 3}});
  graph->output("y", linear(silu(x), graph->weight("w", {DType::f32, {5, 3}})));
  return graph;
}
Tensor weight(const std::string&) {
  Tensor w(DType::f32, {5, 3});
  for (int64_t i = 0; i < w.count(); ++i) w.f32()[size_t(i)] = float(i) / 7 - 1;
  return w;
}
Tensor rows(int64_t count) {
  Tensor x(DType::f32, {count, 3});
  for (int64_t i = 0; i < x.count(); ++i) x.f32()[size_t(i)] = float(i % 5) / 3 - 0.5f;
  return x;
}

/// Runs 4, then 9 rows, then 4 again, and checks each; how many programs were compiled after each run.
std::vector<int> compiled_after(Session& session) {
  Network network(session, "small", small_graph(), weight);
  std::vector<int> counts;
  for (int64_t count : {4, 9, 4}) {
    Tensor x = rows(count), y = network.run({{"x", x}}).at(0), expected = interpret(network.graph(), {{"x", x}}, weight).at(0);
    REQUIRE(y.shape() == expected.shape());
    for (size_t i = 0; i < y.f32().size(); ++i) CHECK(y.f32()[i] == doctest::Approx(expected.f32()[i]).epsilon(1e-5));
    counts.push_back(session.compiled().compiled);
  }
  return counts;
}

}  // namespace

TEST_CASE("a dynamic network is compiled once for all sizes") {
  Session session({.backend = Backend::Native, .threads = 2}, {.memory_only = true});
  CHECK(compiled_after(session) == std::vector<int>{2, 2, 2});  // matrix kernels and the graph
}

TEST_CASE("what two networks share counts once: a program that both have, and the matrix kernels") {
  Session session({.backend = Backend::Native, .threads = 2}, {.memory_only = true});
  Network first(session, "first", small_graph(), weight), second(session, "second", small_graph(), weight);
  Bindings sizes = sizes_of(first.graph(), {{"x", rows(4)}});
  CompileReport foreseen;
  for (Network* network : {&first, &second}) network->foresee(sizes, foreseen);
  CHECK(foreseen.needed == 2);
  CHECK(foreseen.cached == 0);
  for (Network* network : {&first, &second}) network->compile(sizes);
  CHECK(session.compiled().needed == 2);
  CHECK(session.compiled().compiled == 2);
  CHECK(session.compiled().cached == 0);
  CompileReport again;
  for (Network* network : {&first, &second}) network->foresee(sizes, again);
  CHECK(again.needed == 2);
  CHECK(again.cached == 2);
}

TEST_CASE("a network of fixed sizes is compiled for each, saying why, and found again for one it has seen") {
  Session session({.backend = Backend::Native, .dynamic = false, .threads = 2}, {.memory_only = true});
  CHECK(compiled_after(session) == std::vector<int>{2, 3, 3});
  REQUIRE(session.compiled().reasons.size() == 3);
  const std::string& why = session.compiled().reasons.back();
  INFO(why);
  CHECK(why.find("[4, 3]") != why.npos);
  CHECK(why.find("[9, 3]") != why.npos);
}
