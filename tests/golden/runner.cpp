#include "golden/runner.h"

#include "graph/interpreter.h"

namespace sinter::golden {

GraphRunner interpreter_runner() {
  return [](const Graph& graph, const std::map<std::string, Tensor>& inputs,
            const std::function<Tensor(const std::string&)>& weights) {
    std::map<std::string, DType> types;
    for (const WeightUse& use : weights_of(graph)) types[use.name] = use.type.dtype;
    return interpret(graph, inputs, [&](const std::string& name) { return weights(name).to(types.at(name)); });
  };
}

GraphRunner session_runner(Session& session, int64_t fp8_width, int64_t fp8_keys) {
  return [&session, fp8_width, fp8_keys](const Graph& graph, const std::map<std::string, Tensor>& inputs,
                                         const std::function<Tensor(const std::string&)>& weights) {
    auto copy = std::make_unique<Graph>();
    copy_graph(graph, *copy);
    return Network(session, "a golden case", std::move(copy), weights, {}, fp8_width, fp8_keys).run(inputs);
  };
}

}  // namespace sinter::golden
