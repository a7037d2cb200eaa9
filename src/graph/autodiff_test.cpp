#include "graph/autodiff.h"

#include <doctest/doctest.h>

#include "graph/interpreter.h"
#include "graph/ops.h"
#include "tensor/random.h"

using namespace sinter;

namespace {
using Tensors = std::map<std::string, Tensor>;

Tensor normal(std::vector<int64_t> shape, uint64_t seed) { return RandomGenerator(seed).randn(std::move(shape)).to(DType::f64); }
double* doubles(Tensor& t) { return reinterpret_cast<double*>(t.data()); }
double first(const Tensor& t) { return *reinterpret_cast<const double*>(t.data()); }

/// Output `loss` (a scalar) first; then the gradients named by what they are of.
void check_against_differences(const Graph& graph, Tensors inputs, Tensors weights) {
  auto run = [&] { return interpret(graph, inputs, [&](const std::string& name) { return weights.at(name); }); };
  auto results = run();
  for (size_t i = 1; i < results.size(); ++i) {
    const std::string& name = graph.outputs()[i].name;
    INFO(name);
    Tensors& owner = inputs.contains(name) ? inputs : weights;
    Tensor &x = owner.at(name), gradient = results[i];
    REQUIRE(gradient.shape() == x.shape());
    for (int64_t at = 0; at < x.count(); ++at) {
      Tensor original = x.clone();
      double sides[2];
      for (int side : {0, 1}) {
        x = original.clone();
        doubles(x)[at] += side ? 1e-5 : -1e-5;
        sides[side] = first(run()[0]);
      }
      x = original;
      CHECK(doubles(gradient)[at] == doctest::Approx((sides[1] - sides[0]) / 2e-5).epsilon(1e-6).scale(1e-2));
    }
  }
}

Value total(Value x) {
  std::vector<int64_t> axes;
  for (int64_t i = 0; i < x.rank(); ++i) axes.push_back(i);
  return reshape(reduce_sum(x, axes), {});
}
Value one(Graph& graph) { return scalar(graph, 1, DType::f64); }

std::shared_ptr<const Function> layer(Dim rows) {
  auto function = std::make_shared<Function>();
  function->name = "layer";
  Graph& g = function->graph;
  Value x = g.input("x", {DType::f64, {rows, 3}});
  Value h = silu(linear(x, g.weight("w", {DType::f64, {3, 3}})));
  g.output("h", x + layer_norm(h, 1e-3));
  g.output("size", reduce_sum(square(h), {-1}));
  return function;
}
}  // namespace

TEST_CASE("gradients reach the weights of every call of a function, and a weight used twice sums both uses") {
  Graph g;
  Dim rows = Dim::symbol("autodiff_rows");
  Value x = g.input("x", {DType::f64, {rows, 3}});
  auto function = layer(rows);
  auto a = call(function, {x}, "a."), b = call(function, {a[0]}, "b."), again = call(function, {b[0]}, "a.");
  Value loss = total(square(again[0])) + total(b[1] * a[1]);
  Value wa = g.weight("a.w", {DType::f64, {3, 3}}), wb = g.weight("b.w", {DType::f64, {3, 3}});
  std::vector<Value> by{x, wa, wb};
  auto found = gradients(loss, one(g), by);
  g.output("loss", loss);
  g.output("x", found[0]), g.output("a.w", found[1]), g.output("b.w", found[2]);
  verify(g);
  check_against_differences(g, {{"x", normal({2, 3}, 1)}}, {{"a.w", normal({3, 3}, 2)}, {"b.w", normal({3, 3}, 3)}});
}

TEST_CASE("calls inside calls are entered") {
  auto outer = std::make_shared<Function>();
  outer->name = "outer";
  Value inner_x = outer->graph.input("x", {DType::f64, {2, 3}});
  auto inner = call(layer(2), {inner_x}, "in.");
  outer->graph.output("y", inner[1] * outer->graph.weight("s", {DType::f64, {1}}));
  Graph g;
  Value loss = total(call(outer, {g.input("x", {DType::f64, {2, 3}})}, "o.")[0]);
  std::vector<Value> by{g.weight("o.in.w", {DType::f64, {3, 3}}), g.weight("o.s", {DType::f64, {1}})};
  auto found = gradients(loss, one(g), by);
  g.output("loss", loss), g.output("o.in.w", found[0]), g.output("o.s", found[1]);
  check_against_differences(g, {{"x", normal({2, 3}, 1)}}, {{"o.in.w", normal({3, 3}, 2)}, {"o.s", normal({1}, 3)}});
}

TEST_CASE("a convolutional network of unknown size is differentiated once for all sizes") {
  Graph g;
  Dim batch = Dim::symbol("autodiff_batch"), height = Dim::symbol("autodiff_height"), width = Dim::symbol("autodiff_width");
  Value x = g.input("x", {DType::f64, {batch, height, width, 2}});
  Value w = g.weight("w", {DType::f64, {4, 2, 3, 3}}), v = g.weight("v", {DType::f64, {2, 4, 3, 3}});
  Value s = g.weight("s", {DType::f64, {4}}), t = g.weight("t", {DType::f64, {4}});
  Value h = silu(group_norm(conv2d(x, w, {2, 1, 1, 1, 1}), s, t, 2, 1e-3));
  Value y = conv2d(resize_nearest(h, height, width), v, {1, 1, 1, 1, 1});
  Value loss = total(square(y + x));
  std::vector<Value> by{x, w, v, s, t};
  auto found = gradients(loss, one(g), by);
  g.output("loss", loss);
  g.output("x", found[0]), g.output("w", found[1]), g.output("v", found[2]), g.output("s", found[3]), g.output("t", found[4]);
  Tensors weights{{"w", normal({4, 2, 3, 3}, 2)}, {"v", normal({2, 4, 3, 3}, 3)}, {"s", normal({4}, 4)}, {"t", normal({4}, 5)}};
  check_against_differences(g, {{"x", normal({1, 4, 4, 2}, 1)}}, weights);
  check_against_differences(g, {{"x", normal({2, 5, 3, 2}, 1)}}, weights);
}

TEST_CASE("the gradient of a gradient is the second derivative") {
  Graph g;
  Value x = g.input("x", {DType::f64, {3}});
  std::vector<Value> by{x};
  Value slope = gradients(total(gelu(x) * sin(x)), one(g), by)[0];
  g.output("loss", total(slope)), g.output("x", gradients(total(slope), one(g), by)[0]);
  check_against_differences(g, {{"x", normal({3}, 7)}}, {});
}

TEST_CASE("a value that does not matter has gradient zero, and integers pass none on") {
  Graph g;
  Value x = g.input("x", {DType::f64, {2}}), unused = g.input("unused", {DType::f64, {2, 2}});
  Value rounded = cast(cast(x, DType::i32), DType::f64);
  std::vector<Value> by{unused, x};
  auto found = gradients(total(rounded * 2.0), one(g), by);
  g.output("a", found[0]), g.output("b", found[1]);
  Tensors inputs{{"x", normal({2}, 1)}, {"unused", normal({2, 2}, 1)}};
  auto results = interpret(g, inputs, [](const std::string&) { return Tensor(); });
  CHECK(relative_error(results[0], Tensor(DType::f64, {2, 2})) == 0);
  CHECK(relative_error(results[1], Tensor(DType::f64, {2})) == 0);
}

TEST_CASE("a gradient of another type than the output is refused with both types") {
  Graph g;
  Value x = g.input("x", {DType::f64, {2}});
  std::vector<Value> by{x};
  CHECK_THROWS_WITH(gradients(x * x, one(g), by), doctest::Contains("gradient of a f64[2] must be of the same type, not f64[]"));
}
