// What every backend of the CPU promises: the values of the interpreter, whatever the graph.
#include <doctest/doctest.h>

#include <cstdlib>

#include "backends/cpu/backend_test_help.h"
#include "random_network.h"
#include "sample_case.h"

using namespace sinter;
using namespace sinter::cpu;

namespace {

/// Kernels compute in f32 and round once, the interpreter rounds after every op.
double tolerance(DType dtype) { return dtype == DType::f32 ? 1e-5 : dtype == DType::f16 ? 1e-2 : 6e-2; }

struct NetworkCase {
  RandomNetwork network;
  Graph graph;
  std::map<std::string, Tensor> weights;
  TestCase test;

  NetworkCase(uint32_t seed, BuildOptions options, int steps) : network(seed, std::move(options)) {
    network.fill(graph, steps);
    for (Value input : graph.inputs()) test.inputs[input->attrs.as<NameAttrs>().name] = network.draw(input->type);
    for (const WeightUse& use : weights_of(graph)) weights[use.name] = network.draw(use.type);
    test.graph = &graph;
    test.bindings = network.bindings();
    test.weights = [this](const std::string& name) { return weights.at(name); };
  }
};

void compare_with_interpreter(const TestCase& test, double tolerance) {
  std::vector<Tensor> expected = interpret(*test.graph, test.inputs, test.weights, test.bindings);
  for (bool fuse : {true, false})
    for (int threads : {1, 4}) {
      INFO(std::string(fuse ? "native" : "eager"), ", ", threads, " threads");
      TestRun run;
      try {
        run = run_on(TestBackend::with_threads(threads), test, fuse);
      } catch (const std::exception& e) {
        CHECK_MESSAGE(false, std::string(e.what()));
        continue;
      }
      CHECK(run.stayed_inside);
      for (size_t i = 0; i < expected.size(); ++i) {
        INFO("output ", i, " ", test.graph->outputs()[i].value->type.text());
        CHECK(distance(run.outputs[i], expected[i]) <= tolerance);
      }
    }
}

Value scalar_row(Graph& graph, double value) { return broadcast(scalar(graph, value, DType::f32), {2}); }

/// SINTER_SEED runs one random case by itself.
template <class Body>
void for_each_seed(uint32_t count, Body body) {
  const char* one = std::getenv("SINTER_SEED");
  uint32_t first = one ? uint32_t(std::atoi(one)) : 0;
  for (uint32_t seed = first; seed < (one ? first + 1 : count); ++seed) {
    INFO("SINTER_SEED=", seed);
    body(seed);
  }
}

}  // namespace

TEST_CASE("every op's samples give on native and eager what the interpreter gives, in every type") {
  for_each_sample([](const SampleCase& c, DType dtype) {
    compare_with_interpreter({&c.graph, c.inputs, c.reader(), {}}, tolerance(dtype));
  });
}

TEST_CASE("a resized axis may become the columns of a kernel, a matrix or an argument") {
  Dim b = Dim::symbol("backend_b"), h = Dim::symbol("backend_h"), w = Dim::symbol("backend_w");
  Graph graph;
  Value x = graph.input("x", {DType::f32, {b, h, w, 2}}), r = resize_nearest(x, h + 1, ceil_div(w, 2));
  Value turned = transpose(r, {1, 3, 0, 2});
  auto function = std::make_shared<Function>();
  function->graph.output("y", silu(function->graph.input("p", turned->type)));
  graph.output("copied", turned);
  graph.output("reduced", reduce_sum(silu(r), {0, 2}));
  graph.output("product", matmul(turned, transpose(r, {1, 3, 2, 0})));
  graph.output("called", call(function, {turned}, "")[0]);
  graph.output("batch of a sum", group_norm(transpose(r, {1, 0, 2, 3}), scalar_row(graph, 1), scalar_row(graph, 0), 2, 0.5));
  TestCase test{&graph, {{"x", Tensor(DType::f32, {3, 8, 6, 2})}}, {}, {}};
  std::mt19937 random(3);
  for (float& value : test.inputs.at("x").f32()) value = float(random()) / 4294967296.f;
  bind_shape(x.shape(), test.inputs.at("x").shape(), "x", test.bindings);
  compare_with_interpreter(test, tolerance(DType::f32));
}

TEST_CASE("random networks of unknown sizes give on native and eager what the interpreter gives") {
  for_each_seed(60, [](uint32_t seed) {
    NetworkCase c(seed, {}, 12);
    compare_with_interpreter(c.test, 1e-4);
  });
}

TEST_CASE("random networks in half precision stay as near to the interpreter as their type allows") {
  for_each_seed(30, [](uint32_t seed) {
    DType compute = seed % 2 ? DType::bf16 : DType::f16;
    NetworkCase c(seed, {compute, [=](const std::string& name) { return name.ends_with("bias") ? DType::f32 : compute; }}, 8);
    compare_with_interpreter(c.test, 3 * tolerance(compute));
  });
}
