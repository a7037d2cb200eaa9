#include "graph/autodiff.h"

#include <unordered_set>

#include "graph/ops.h"

namespace sinter {

Value Lowering::operator()(Value root) {
  // Depth first with a stack of our own, as in topological_order; what is lowered already is not entered again.
  std::vector<std::pair<const Node*, size_t>> stack{{root.node(), 0}};
  while (!stack.empty()) {
    auto& [node, next] = stack.back();
    if (lowered_.contains(node)) {
      stack.pop_back();
    } else if (next < node->inputs.size()) {
      const Node* input = node->inputs[next++].node();
      if (!lowered_.contains(input)) stack.emplace_back(input, 0);
    } else {
      const Node* done = node;
      stack.pop_back();
      Value value = lower_node(*done);
      lowered_[done] = value;
      lowered_[value.node()] = value;
    }
  }
  return lowered_.at(root.node());
}

Value Lowering::lower_node(const Node& node) {
  if (node.op == &call_op) return (calls_[&node] = inline_call(node)).at(0);
  if (node.op == &result_op) return calls_.at(node.inputs[0].node()).at(size_t(node.attrs.as<IndexAttrs>().index));
  if (node.inputs.empty()) return &node;
  std::vector<Value> inputs;
  for (Value input : node.inputs) inputs.push_back(lowered_.at(input.node()));
  Value same = graph_.add(*node.op, std::move(inputs), node.attrs);
  return node.op->gradient || !node.op->expand ? same : (*this)(node.op->expand(*same));
}

std::vector<Value> Lowering::inline_call(const Node& call) {
  const auto& attrs = call.attrs.as<CallAttrs>();
  const Graph& body = attrs.function->graph;
  std::unordered_map<const Node*, Value> copies;
  for (size_t i = 0; i < call.inputs.size(); ++i) copies[body.inputs()[i].node()] = lowered_.at(call.inputs[i].node());
  for (Value value : topological_order(body)) {
    if (copies.contains(value.node())) continue;
    Attrs copied = value->attrs;
    if (value->op == &weight_op) {
      auto named = copied.as<NameAttrs>();
      named.name = attrs.prefix + named.name;
      copied = Attrs::of(std::move(named));
    } else if (value->op == &call_op) {
      auto inner = copied.as<CallAttrs>();
      inner.prefix = attrs.prefix + inner.prefix;
      copied = Attrs::of(std::move(inner));
    }
    std::vector<Value> inputs;
    for (Value input : value->inputs) inputs.push_back(copies.at(input.node()));
    copies[value.node()] = graph_.add(*value->op, std::move(inputs), std::move(copied));
  }
  std::vector<Value> results;
  for (const Output& output : body.outputs()) results.push_back((*this)(copies.at(output.value.node())));
  return results;
}

namespace {

std::vector<Value> input_gradients(const Node& node, Value output_gradient) {
  if (!node.op->gradient) fail(Code::Unsupported, "the op {} has no gradient", node.op->name);
  std::vector<Value> gradients = node.op->gradient(node, output_gradient);
  SINTER_ASSERT(gradients.size() == node.inputs.size());
  return gradients;
}

Value zeros(Value like) { return broadcast(scalar(*like->graph, 0, like.dtype()), like.shape()); }

}  // namespace

std::vector<Value> gradients(Value output, Value output_gradient, std::span<const Value> with_respect_to) {
  if (output_gradient->type != output->type)
    fail(Code::InvalidArgument, "the gradient of a {} must be of the same type, not {}", output->type.text(),
         output_gradient->type.text());
  Lowering lower(*output->graph);
  Value root = lower(output);
  std::unordered_set<const Node*> needed;
  for (Value v : with_respect_to) needed.insert(lower(v).node());

  std::vector<Value> order = topological_order(std::span(&root, 1));
  for (Value value : order)
    for (Value input : value->inputs)
      if (needed.contains(input.node())) needed.insert(value.node());

  std::unordered_map<const Node*, Value> sums{{root.node(), output_gradient}};
  for (size_t i = order.size(); i-- > 0;) {
    const Node& node = *order[i];
    auto sum = sums.find(&node);
    if (node.inputs.empty() || sum == sums.end() || !needed.contains(&node)) continue;
    std::vector<Value> parts = input_gradients(node, sum->second);
    for (size_t k = 0; k < parts.size(); ++k) {
      if (!parts[k] || !needed.contains(node.inputs[k].node())) continue;
      Value& total = sums[node.inputs[k].node()];
      total = total ? total + parts[k] : parts[k];
    }
  }
  std::vector<Value> results;
  for (Value v : with_respect_to) {
    auto at = sums.find(lower(v).node());
    results.push_back(at == sums.end() ? zeros(v) : at->second);
  }
  return results;
}

}  // namespace sinter
