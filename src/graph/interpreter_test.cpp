#include "graph/interpreter.h"

#include <doctest/doctest.h>

#include "graph/ops.h"
#include "tensor/random.h"

using namespace sinter;

namespace {
Tensor no_weights(const std::string& name) { fail(Code::NotFound, "no weight {}", name); }
Tensor run(const Graph& graph, const std::map<std::string, Tensor>& inputs) { return interpret(graph, inputs, no_weights).at(0); }
Tensor floats(std::vector<int64_t> shape, std::vector<float> values) { return Tensor::of(std::move(shape), values); }
std::vector<float> list(const Tensor& t) {
  Tensor f = t.to(DType::f32);
  return {f.f32().begin(), f.f32().end()};
}
std::string message(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& e) {
    return e.message();
  }
  return "no error";
}
}  // namespace

TEST_CASE("a strided, padded convolution sums what its kernel sees") {
  Graph g;
  Value x = g.input("x", {DType::f32, {1, 3, 3, 1}}), w = g.input("w", {DType::f32, {1, 1, 2, 2}});
  g.output("y", conv2d(x, w, {2, 1, 0, 0, 1}));
  // Rows -1..2 and columns 0..3 of 1..9 with zeros around, in steps of 2.
  Tensor y = run(g, {{"x", floats({1, 3, 3, 1}, {1, 2, 3, 4, 5, 6, 7, 8, 9})}, {"w", floats({1, 1, 2, 2}, {1, 10, 100, 1000})}});
  CHECK(y.shape() == std::vector<int64_t>{1, 2, 2, 1});
  CHECK(list(y) == std::vector<float>{2100, 300, 4 + 50 + 700 + 8000, 6 + 900});
}

TEST_CASE("causal attention of the first query is the first value") {
  Graph g;
  Shape shape{1, 3, 2, 4};
  Value q = g.input("q", {DType::f32, shape}), k = g.input("k", {DType::f32, shape}), v = g.input("v", {DType::f32, shape});
  g.output("y", attention(q, k, v, {0.5, true}));
  RandomGenerator random(1);
  Tensor values = random.randn({1, 3, 2, 4});
  Tensor y = run(g, {{"q", random.randn({1, 3, 2, 4})}, {"k", random.randn({1, 3, 2, 4})}, {"v", values}});
  for (size_t i = 0; i < 8; ++i) CHECK(y.f32()[i] == doctest::Approx(values.f32()[i]));
  CHECK(y.f32()[8] != doctest::Approx(values.f32()[8]));
}

TEST_CASE("one symbol serves all inputs that name it, and disagreement is an error with both sizes") {
  Graph g;
  Dim rows = Dim::symbol("interpreter_rows", {1, 8, 1});
  Value a = g.input("a", {DType::f32, {rows, 2}}), b = g.input("b", {DType::f32, {rows * 2}});
  g.output("y", reshape(a, {rows * 2}) + b);
  CHECK(list(run(g, {{"a", floats({2, 2}, {1, 2, 3, 4})}, {"b", floats({4}, {10, 20, 30, 40})}})) ==
        std::vector<float>{11, 22, 33, 44});
  auto wrong = message([&] { run(g, {{"a", Tensor(DType::f32, {2, 2})}, {"b", Tensor(DType::f32, {5})}}); });
  CHECK(wrong.find("'b'") != wrong.npos);
  CHECK(wrong.find("[4]") != wrong.npos);
  CHECK(wrong.find("[5]") != wrong.npos);
  auto large = message([&] { run(g, {{"a", Tensor(DType::f32, {9, 2})}, {"b", Tensor(DType::f32, {18})}}); });
  CHECK(large.find("from 1 to 8") != large.npos);
  auto type = message([&] { run(g, {{"a", Tensor(DType::f16, {2, 2})}, {"b", Tensor(DType::f32, {4})}}); });
  CHECK(type.find("f16[2, 2]") != type.npos);
  CHECK(message([&] { run(g, {{"a", Tensor(DType::f32, {2, 2})}}); }).find("'b'") != std::string::npos);
  CHECK(message([&] {
          run(g, {{"a", Tensor(DType::f32, {2, 2})}, {"b", Tensor(DType::f32, {4})}, {"c", Tensor(DType::f32, {4})}});
        }).find("no input 'c'") != std::string::npos);
}

TEST_CASE("each call of a function reads the weights under its own prefix and gives all its results") {
  auto function = std::make_shared<Function>();
  function->name = "scale";
  Value x = function->graph.input("x", {DType::f32, {2}});
  Value y = x * function->graph.weight("w", {DType::f32, {2}});
  function->graph.output("y", y);
  function->graph.output("negative", -y);

  Graph g;
  auto first = call(function, {g.input("x", {DType::f32, {2}})}, "a.");
  auto second = call(function, {first[1]}, "b.");
  g.output("y", second[0]);
  g.output("kept", first[0]);
  std::map<std::string, Tensor> weights{{"a.w", floats({2}, {2, 3})}, {"b.w", floats({2}, {10, 100})}};
  auto results = interpret(g, {{"x", floats({2}, {1, 1})}}, [&](const std::string& name) { return weights.at(name); });
  CHECK(list(results[0]) == std::vector<float>{-20, -300});
  CHECK(list(results[1]) == std::vector<float>{2, 3});
  weights["b.w"] = Tensor(DType::f32, {3});
  auto wrong = message([&] { interpret(g, {{"x", floats({2}, {1, 1})}}, [&](const std::string& n) { return weights.at(n); }); });
  CHECK(wrong.find("'b.w' must be f32[2], not f32[3]") != wrong.npos);
}

TEST_CASE("a sum of many f16 values is rounded once") {
  Graph g;
  Value x = g.input("x", {DType::f16, {5000}});
  g.output("y", reduce_sum(x, {0}));
  Tensor ones(DType::f32, {5000});
  for (float& value : ones.f32()) value = 1;
  CHECK(list(run(g, {{"x", ones.to(DType::f16)}})) == std::vector<float>{5000});
}

TEST_CASE("large products agree with sums in another order") {
  RandomGenerator random(3);
  Tensor x = random.randn({131, 517}), w = random.randn({77, 517});
  Graph g;
  g.output("y", linear(g.input("x", {DType::f32, {131, 517}}), g.input("w", {DType::f32, {77, 517}})));
  Tensor y = run(g, {{"x", x}, {"w", w}});
  double worst = 0;
  for (size_t i = 0; i < 131; ++i)
    for (size_t j = 0; j < 77; ++j) {
      double sum = 0;
      for (size_t k = 517; k-- > 0;) sum += double(x.f32()[i * 517 + k]) * double(w.f32()[j * 517 + k]);
      worst = std::max(worst, std::abs(sum - double(y.f32()[i * 77 + j])));
    }
  CHECK(worst < 1e-5);
}
