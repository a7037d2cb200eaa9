#pragma once
#include <algorithm>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "graph/interpreter.h"
#include "graph/ops.h"

namespace sinter {

/// Makes small random graphs of most ops, in which values stay moderate: for tests that hold for every graph.
class RandomGraph {
 public:
  explicit RandomGraph(uint32_t seed) : random_(seed) {}

  /// Fills an empty graph with about `steps` nodes on f32 inputs x0 and x1, weights and calls; one or two outputs.
  void fill(Graph& graph, int steps, bool with_calls = true) {
    std::vector<Value> values{graph.input("x0", {DType::f32, {3, 4}}), graph.input("x1", {DType::f32, {2, 3, 4}})};
    auto function = with_calls ? random_function() : nullptr;
    for (int i = 0; i < steps; ++i) values.push_back(step(graph, values, function));
    graph.output("y", values.back());
    graph.output("z", values[size_t(pick(2, int(values.size()) - 1))]);
  }

  int pick(int low, int high) { return low + int(random_() % uint32_t(high - low + 1)); }
  std::mt19937& bits() { return random_; }

 private:
  std::shared_ptr<const Function> random_function() {
    auto function = std::make_shared<Function>();
    function->name = "block";
    std::vector<Value> values{function->graph.input("p", {DType::f32, {3, 4}})};
    for (int i = 0; i < 4; ++i) values.push_back(step(function->graph, values, nullptr));
    function->graph.output("first", values.back());
    function->graph.output("second", values[values.size() / 2]);
    return function;
  }

  Value step(Graph& graph, const std::vector<Value>& values, const std::shared_ptr<const Function>& function) {
    Value x = values[size_t(pick(0, int(values.size()) - 1))], y = values[size_t(pick(0, int(values.size()) - 1))];
    int axis = pick(0, x.rank() - 1);
    switch (pick(0, 12)) {
      case 0:
        return elementwise("sine", {x});
      case 1:
        return elementwise("tangent_hyperbolic", {x + double(pick(-2, 2))});
      case 2:
        return x.shape() == y.shape() ? elementwise("tangent_hyperbolic", {x * y}) : elementwise("cosine", {x});
      case 3:
        return mean(x, {axis}) + x;
      case 4:
        return softmax(x);
      case 5: {
        std::vector<int64_t> order;
        for (int i = 0; i < x.rank(); ++i) order.push_back(i);
        std::shuffle(order.begin(), order.end(), random_);
        return transpose(x, order);
      }
      case 6:
        return reshape(x, {element_count(x.shape())});
      case 7:
        return slice(x, axis, x.dim(axis) - 1, 1);
      case 8:
        return element_count(x.shape()).constant() < 500 ? concat({x, elementwise("cosine", {x})}, axis)
                                                         : elementwise("sine", {x});
      case 9:
        return elementwise("tangent_hyperbolic", {linear(x, graph.weight(name("w"), {DType::f32, {pick(1, 4), x.dim(-1)}}))});
      case 10:
        return cast(cast(x, DType::f16), DType::f32);
      case 11:
        return layer_norm(x, 0.5);
      default:
        if (function && x.shape() == Shape{3, 4}) return call(function, {x}, name("block"))[size_t(pick(0, 1))];
        return reduce_max(x, {axis}) * x;
    }
  }
  std::string name(const std::string& kind) { return kind + std::to_string(count_++) + "."; }

  std::mt19937 random_;
  int count_ = 0;
};

}  // namespace sinter
