#include "compiler/passes/hoist.h"

#include <doctest/doctest.h>

#include <cstring>

#include "graph/interpreter.h"
#include "models/flux.h"
#include "models/unet.h"
#include "random_network.h"
#include "refusal.h"

using namespace sinter;

namespace {

using Tensors = std::map<std::string, Tensor>;

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.data(), b.data(), size_t(a.bytes())) == 0;
}

std::set<std::string> names_of(const std::vector<Value>& inputs) {
  std::set<std::string> names;
  for (Value input : inputs) names.insert(input->attrs.as<NameAttrs>().name);
  return names;
}

std::set<std::string> weight_names(const Graph& graph) {
  std::set<std::string> names;
  for (const WeightUse& use : weights_of(graph)) names.insert(use.name);
  return names;
}

/// Nodes of an op, those of called functions once a call.
int count(const Graph& graph, const OpDef& op) {
  int sum = 0;
  for (Value v : topological_order(graph)) {
    sum += v->op == &op;
    if (v->op == &call_op) sum += count(v->attrs.as<CallAttrs>().function->graph, op);
  }
  return sum;
}

void collect_programs(const Graph& graph, std::set<Digest>& digests) {
  digests.insert(structure_digest(graph));
  for (Value v : topological_order(graph))
    if (v->op == &call_op) collect_programs(v->attrs.as<CallAttrs>().function->graph, digests);
}
int programs(const Graph& graph) {
  std::set<Digest> digests;
  collect_programs(graph, digests);
  return int(digests.size());
}

const Dim kBatch = Dim::symbol("batch"), kHeight = Dim::symbol("height"), kWidth = Dim::symbol("width"),
          kText = Dim::symbol("text");

}  // namespace

TEST_CASE("a step with hoisted values equals one without, whatever the network and its steady inputs") {
  int hoisted_values = 0, from_blocks = 0;
  for (uint32_t seed = 0; seed < 400; ++seed) {
    CAPTURE(seed);
    RandomNetwork network(seed);
    Graph graph;
    network.fill(graph, 14);
    std::set<std::string> steady;
    std::mt19937 random(seed);
    Tensors inputs, weights;
    for (Value input : graph.inputs()) {
      const auto& name = input->attrs.as<NameAttrs>().name;
      inputs[name] = network.draw(input->type);
      if (random() % 2) steady.insert(name);
    }
    for (const WeightUse& use : weights_of(graph)) weights[use.name] = network.draw(use.type);
    auto weight = [&](const std::string& name) { return weights.at(name); };

    Hoisted parts = hoist(graph, steady, "steady");
    verify(*parts.prelude);
    verify(*parts.step);
    for (const auto& name : names_of(parts.prelude->inputs())) CHECK(steady.contains(name));
    std::set<std::string> both = weight_names(*parts.prelude), step_weights = weight_names(*parts.step);
    both.insert(step_weights.begin(), step_weights.end());
    std::set<std::string> all = weight_names(graph);  // more where an argument was computed that its function does not use
    CHECK(std::includes(all.begin(), all.end(), both.begin(), both.end()));

    auto expected = interpret(graph, inputs, weight, network.bindings());
    Tensors steady_inputs, step_inputs;
    for (const auto& name : names_of(parts.prelude->inputs())) steady_inputs[name] = inputs[name];
    // Without bindings: every size must follow from the steady inputs.
    auto values = interpret(*parts.prelude, steady_inputs, weight);
    for (size_t i = 0; i < values.size(); ++i) inputs[parts.prelude->outputs()[i].name] = values[i];
    for (const auto& name : names_of(parts.step->inputs())) step_inputs[name] = inputs[name];
    auto found = interpret(*parts.step, step_inputs, weight, network.bindings());
    REQUIRE(found.size() == expected.size());
    for (size_t i = 0; i < found.size(); ++i) CHECK(same_bits(found[i], expected[i]));
    hoisted_values += int(values.size());
    for (const Output& output : parts.prelude->outputs()) from_blocks += output.value->op == &call_op;
  }
  CHECK(hoisted_values > 200);
  CHECK(from_blocks > 30);
}

TEST_CASE("what depends on all inputs, or on no product, is not hoisted") {
  Graph graph;
  Value x = graph.input("x", {DType::f32, {kBatch, 4}}), y = graph.input("y", {DType::f32, {kBatch, 4}});
  Value w = graph.weight("w", {DType::f32, {4, 4}});
  graph.output("out", linear(x + silu(y), w));
  Hoisted parts = hoist(graph, {"y"}, "steady");
  CHECK(parts.prelude->outputs().empty());
  CHECK(structure_digest(*parts.step) == structure_digest(graph));
}

TEST_CASE("a product whose result has a size that no steady input gives stays in the step") {
  Graph graph;
  Value x = graph.input("x", {DType::f32, {kHeight, 4}}), y = graph.input("y", {DType::f32, {1, 4}});
  Value wide = linear(broadcast(y, {kHeight, 4}), graph.weight("w", {DType::f32, {4, 4}}));
  graph.output("out", x + wide);
  CHECK(hoist(graph, {"y"}, "steady").prelude->outputs().empty());
}

TEST_CASE("the smallest values cross: what is sliced as a whole, what is widened before it is") {
  Graph graph;
  Value x = graph.input("x", {DType::f32, {kBatch, 8, 4}}), y = graph.input("y", {DType::f32, {kBatch, 4}});
  Value both = linear(y, graph.weight("w", {DType::f32, {8, 4}})) + graph.weight("bias", {DType::f32, {8}});
  auto parts = split(reshape(both, {kBatch, 1, 8}), {4, 4}, -1);
  graph.output("out", (parts[0] + 1.0) * x + parts[1]);
  Hoisted cut = hoist(graph, {"y"}, "steady");
  REQUIRE(cut.prelude->outputs().size() == 1);
  CHECK(cut.prelude->outputs()[0].name == "steady 0");
  CHECK(cut.prelude->outputs()[0].value->type.text() == "f32[batch, 1, 8]");
  CHECK(names_of(cut.step->inputs()) == std::set<std::string>{"x", "steady 0"});
  CHECK(weight_names(*cut.prelude) == std::set<std::string>{"w", "bias"});
}

TEST_CASE("hoisting refuses a steady input that the graph does not have") {
  Graph graph;
  graph.output("out", graph.input("x", {DType::f32, {kBatch}}));
  CHECK_THROWS_WITH_AS(hoist(graph, {"z"}, "steady"), doctest::Contains("no input 'z'"), Error);
}

TEST_CASE("of U-Nets, keys and values of the prompt and what the timestep adds to residual blocks are hoisted") {
  struct Case {
    UnetConfig config;
    int transformers, residuals;
  };
  for (const Case& c : {Case{sd15_unet_config(), 16, 22}, Case{sdxl_unet_config(), 70, 17}}) {
    CAPTURE(c.transformers);
    Graph graph;
    build_unet(graph, c.config, {kBatch, kHeight, kWidth, kText});
    Hoisted prompt = hoist(graph, {"context"}, "prompt");
    CHECK(int(prompt.prelude->outputs().size()) == 2 * c.transformers);
    CHECK(count(*prompt.prelude, linear_op) == 2 * c.transformers);
    std::set<std::string> of_time{"timesteps"};
    if (c.config.vector_width > 0) of_time.insert("y");
    Hoisted time = hoist(*prompt.step, of_time, "timestep");
    CHECK(int(time.prelude->outputs().size()) == c.residuals);
    std::set<std::string> left = names_of(time.step->inputs());
    for (const char* gone : {"context", "timesteps", "y"}) CHECK(!left.contains(gone));
    CHECK(count(*time.step, linear_op) + count(*time.prelude, linear_op) + 2 * c.transformers == count(graph, linear_op));
    // One program more for each kind of block that is cut, and one for each prelude.
    CHECK(programs(*time.step) == programs(graph));
  }
}

TEST_CASE("of FLUX, all modulations and the first layer of the prompt are hoisted") {
  Graph graph;
  FluxConfig config;
  config.guidance = true;
  build_flux(graph, config, {kBatch, kHeight, kWidth, kText}, {DType::bf16, {}});
  Hoisted prompt = hoist(graph, {"context"}, "prompt");
  CHECK(prompt.prelude->outputs().size() == 1);
  Hoisted time = hoist(*prompt.step, {"timestep", "guidance", "y"}, "timestep");
  CHECK(int64_t(time.prelude->outputs().size()) == 2 * config.double_blocks + config.single_blocks + 1);
  int64_t weights = 0;
  for (const WeightUse& use : weights_of(*time.prelude))
    weights += element_count(use.type.shape).constant() * byte_size(use.type.dtype);
  CHECK(weights > 6'400'000'000);
  CHECK(programs(*time.step) == programs(graph));
  CHECK(programs(*time.prelude) == 3);  // itself and the modulations of both kinds of block
  CHECK(names_of(time.step->inputs()).contains("prompt 0"));
}
