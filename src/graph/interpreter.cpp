#include "graph/interpreter.h"

#include <unordered_map>

#include "graph/ops/support.h"

namespace sinter {
namespace {

std::string type_text(const Tensor& t) { return std::string(name(t.dtype())) + shape_text(t.shape()); }

/// A composite without a reference, as a graph of simpler ops of its own.
std::unique_ptr<Graph> expansion(const Node& n) {
  auto graph = std::make_unique<Graph>();
  std::vector<Value> inputs;
  for (size_t i = 0; i < n.inputs.size(); ++i) inputs.push_back(graph->input(std::to_string(i), n.inputs[i]->type));
  graph->output("", n.op->expand(*graph->add(*n.op, inputs, n.attrs)));
  return graph;
}

class Interpreter {
 public:
  Interpreter(const WeightSource& weights, const Bindings& bindings) : weights_(weights), bindings_(bindings) {}

  std::vector<Tensor> run(const Graph& graph, const std::vector<Tensor>& arguments, const std::string& prefix) {
    std::vector<Value> order = topological_order(graph);
    std::unordered_map<const Node*, int> uses;
    for (Value value : order)
      for (Value input : value->inputs) ++uses[input.node()];
    for (const Output& output : graph.outputs()) ++uses[output.value.node()];

    Values values;
    for (size_t i = 0; i < arguments.size(); ++i) values[graph.inputs()[i].node()] = {arguments[i]};
    for (Value value : order) {
      if (value->op == &input_op) continue;
      std::vector<Tensor> inputs;
      // A result reads its call's values whole.
      if (value->op == &result_op)
        inputs.push_back(values.at(value->inputs[0].node()).at(size_t(value->attrs.as<IndexAttrs>().index)));
      else
        for (Value input : value->inputs) inputs.push_back(values.at(input.node()).at(0));
      for (Value input : value->inputs)
        if (--uses.at(input.node()) == 0) values.erase(input.node());
      values[value.node()] = evaluate(*value, std::move(inputs), prefix);
    }
    std::vector<Tensor> results;
    for (const Output& output : graph.outputs()) results.push_back(values.at(output.value.node()).at(0));
    return results;
  }

 private:
  using Values = std::unordered_map<const Node*, std::vector<Tensor>>;

  std::vector<Tensor> evaluate(const Node& n, std::vector<Tensor> inputs, const std::string& prefix) {
    if (n.op == &weight_op) return {weight(n, prefix)};
    if (n.op == &result_op) return inputs;
    if (n.op == &call_op) {
      const auto& attrs = n.attrs.as<CallAttrs>();
      return in_context("running " + attrs.function->name + " for " + prefix + attrs.prefix,
                        [&] { return run(attrs.function->graph, inputs, prefix + attrs.prefix); });
    }
    if (n.op->reference) return {n.op->reference(n, inputs, bindings_)};
    SINTER_ASSERT(n.op->expand);
    auto& graph = expansions_[&n];
    if (!graph) graph = expansion(n);
    return run(*graph, inputs, prefix);
  }

  Tensor weight(const Node& n, const std::string& prefix) {
    std::string name = prefix + n.attrs.as<NameAttrs>().name;
    Tensor value = weights_(name);
    std::vector<int64_t> shape = sizes(n.type.shape, bindings_);
    if (value.empty() || value.dtype() != n.type.dtype || value.shape() != shape)
      fail(Code::InvalidArgument, "the weight '{}' must be {}{}, not {}", name, sinter::name(n.type.dtype), shape_text(shape),
           value.empty() ? "missing" : type_text(value));
    bool aligned = reinterpret_cast<uintptr_t>(value.data()) % uintptr_t(byte_size(value.dtype())) == 0;
    return aligned ? value : value.clone();
  }

  const WeightSource& weights_;
  const Bindings& bindings_;
  std::unordered_map<const Node*, std::unique_ptr<Graph>> expansions_;
};

/// The symbol, if the size is one symbol and no more.
std::optional<SymbolId> plain_symbol(const Dim& dim) {
  if (dim.terms().size() != 1) return {};
  const Dim::Term& term = dim.terms()[0];
  if (term.coefficient != 1 || term.symbols.size() != 1 || symbol_info(term.symbols[0]).divisor != 0) return {};
  return term.symbols[0];
}

void bind_symbol(SymbolId id, int64_t value, const std::string& what, Bindings& bindings) {
  const Symbol& symbol = symbol_info(id);
  if (value < symbol.facts.lower || value > symbol.facts.upper || value % symbol.facts.divisor != 0)
    fail(Code::InvalidArgument, "{}: the size '{}' must be from {} to {} and a multiple of {}, not {}", what, symbol.name,
         symbol.facts.lower, symbol.facts.upper, symbol.facts.divisor, value);
  auto [at, fresh] = bindings.try_emplace(id, value);
  if (!fresh && at->second != value)
    fail(Code::InvalidArgument, "{}: the size '{}' is {} here and {} elsewhere", what, symbol.name, value, at->second);
}

}  // namespace

void bind_shape(const Shape& wanted, std::span<const int64_t> found, const std::string& what, Bindings& bindings) {
  if (wanted.size() != found.size())
    fail(Code::InvalidArgument, "{} must have the shape {}, not {}", what, text(wanted), shape_text(found));
  for (size_t i = 0; i < wanted.size(); ++i)
    if (auto id = plain_symbol(wanted[i])) bind_symbol(*id, found[i], what, bindings);
}

std::vector<Tensor> interpret(const Graph& graph, const std::map<std::string, Tensor>& inputs, const WeightSource& weights,
                              Bindings bindings) {
  std::vector<Tensor> arguments;
  for (Value input : graph.inputs()) {
    const std::string& name = input->attrs.as<NameAttrs>().name;
    auto at = inputs.find(name);
    if (at == inputs.end()) fail(Code::InvalidArgument, "the input '{}' ({}) is missing", name, input->type.text());
    if (at->second.dtype() != input.dtype())
      fail(Code::InvalidArgument, "the input '{}' must be {}, not {}", name, input->type.text(), type_text(at->second));
    bind_shape(input.shape(), at->second.shape(), "the input '" + name + "'", bindings);
    arguments.push_back(at->second);
  }
  for (const auto& [name, tensor] : inputs) {
    bool known = false;
    for (Value input : graph.inputs()) known |= input->attrs.as<NameAttrs>().name == name;
    if (!known) fail(Code::InvalidArgument, "the graph has no input '{}'", name);
  }
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::vector<int64_t> shape = sizes(graph.inputs()[i].shape(), bindings);
    if (shape != arguments[i].shape())
      fail(Code::InvalidArgument, "the input '{}' must be {} = {}, not {}", graph.inputs()[i]->attrs.as<NameAttrs>().name,
           text(graph.inputs()[i].shape()), shape_text(shape), shape_text(arguments[i].shape()));
  }
  return Interpreter(weights, bindings).run(graph, arguments, "");
}

}  // namespace sinter
