#include "graph/graph.h"

#include <fmt/core.h>

#include <algorithm>
#include <unordered_set>

#include "graph/ops.h"

namespace sinter {

std::string Type::text() const { return std::string(name(dtype)) + sinter::text(shape); }

const Shape& Value::shape() const { return node_->type.shape; }
int Value::rank() const { return int(shape().size()); }
DType Value::dtype() const { return node_->type.dtype; }
const Dim& Value::dim(int axis) const {
  int at = axis < 0 ? axis + rank() : axis;
  if (at < 0 || at >= rank()) fail(Code::InvalidArgument, "axis {} of {} does not exist", axis, node_->type.text());
  return shape()[size_t(at)];
}

namespace {
Digest content_of(const OpDef& op, std::span<const Value> inputs, const Attrs& attrs) {
  Hasher h;
  h.add(op.name).add(uint64_t(inputs.size()));
  for (Value v : inputs) h.add(v->id);
  attrs.identity(h);
  return h.digest();
}
}  // namespace

Value Graph::add(const OpDef& op, std::vector<Value> inputs, Attrs attrs) {
  for (Value v : inputs) SINTER_ASSERT(v && v->graph == this);
  Digest content = content_of(op, inputs, attrs);
  if (auto at = by_content_.find(content); at != by_content_.end()) return at->second;
  Node node{&op, std::move(inputs), std::move(attrs), {}, this, uint32_t(nodes_.size())};
  try {
    node.type = op.infer(node);
  } catch (const Error& e) {
    std::string types;
    for (Value v : node.inputs) types += (types.empty() ? "" : ", ") + v->type.text();
    fail(e.code(), "{}({}): {}", op.name, types, e.message());
  }
  nodes_.push_back(std::move(node));
  by_content_[content] = &nodes_.back();
  return &nodes_.back();
}

Value Graph::input(const std::string& name, Type type) {
  for (Value known : inputs_)
    if (known->attrs.as<NameAttrs>().name == name && known->type != type)
      fail(Code::InvalidArgument, "the input '{}' is {} already, it cannot be {}", name, known->type.text(), type.text());
  size_t before = nodes_.size();
  Value value = add(input_op, {}, Attrs::of(NameAttrs{name, type.dtype, type.shape}));
  if (nodes_.size() > before) inputs_.push_back(value);
  return value;
}

Value Graph::weight(const std::string& name, Type type) {
  return add(weight_op, {}, Attrs::of(NameAttrs{name, type.dtype, type.shape}));
}

std::vector<Value> topological_order(std::span<const Value> roots) {
  std::vector<Value> order;
  std::unordered_set<const Node*> seen;
  // Depth first with a stack of our own: graphs are deeper than the machine's stack is large.
  std::vector<std::pair<const Node*, size_t>> stack;
  for (Value root : roots) {
    if (!seen.insert(root.node()).second) continue;
    stack.emplace_back(root.node(), 0);
    while (!stack.empty()) {
      auto& [node, next] = stack.back();
      if (next < node->inputs.size()) {
        const Node* input = node->inputs[next++].node();
        if (seen.insert(input).second) stack.emplace_back(input, 0);
      } else {
        order.push_back(node);
        stack.pop_back();
      }
    }
  }
  return order;
}

std::vector<Value> topological_order(const Graph& graph) {
  std::vector<Value> roots;
  for (const Output& output : graph.outputs()) roots.push_back(output.value);
  return topological_order(roots);
}

Digest structure_digest(const Graph& graph) {
  SymbolNumbering numbering;
  return structure_digest(graph, numbering);
}

Digest structure_digest(const Graph& graph, SymbolNumbering& numbering) {
  Hasher h;
  // Parameters count by position, used or not: a caller passes them by position.
  h.add(uint64_t(graph.inputs().size()));
  std::unordered_map<const Node*, uint32_t> numbers;
  auto add_type = [&](const Type& type) {
    h.add(type.dtype).add(uint64_t(type.shape.size()));
    for (const Dim& dim : type.shape) numbering.add(h, dim);
  };
  // Sizes that are one symbol first: they number the symbols of the others.
  for (bool alone : {true, false})
    for (Value input : graph.inputs())
      for (const Dim& dim : input.shape())
        if (alone == (dim.terms().size() == 1 && dim.terms()[0].symbols.size() == 1)) numbering.add(h, dim);
  for (Value input : graph.inputs()) {
    numbers.emplace(input.node(), uint32_t(numbers.size()));
    add_type(input->type);
  }
  for (Value value : topological_order(graph)) {
    if (value->op == &input_op) continue;
    h.add(value->op->name).add(uint64_t(value->inputs.size()));
    for (Value input : value->inputs) h.add(numbers.at(input.node()));
    value->attrs.hash(h, numbering);
    add_type(value->type);
    numbers.emplace(value.node(), uint32_t(numbers.size()));
  }
  h.add(uint64_t(graph.outputs().size()));
  for (const Output& output : graph.outputs()) h.add(numbers.at(output.value.node()));
  return h.digest();
}

std::vector<Value> own_weights(const Graph& graph) {
  std::vector<Value> weights;
  for (Value value : topological_order(graph))
    if (value->op == &weight_op) weights.push_back(value);
  return weights;
}

namespace {
void collect_weights(const Graph& graph, const std::string& prefix, std::vector<WeightUse>& out,
                     std::unordered_map<std::string, Type>& seen) {
  for (Value value : topological_order(graph)) {
    if (value->op == &weight_op) {
      std::string name = prefix + value->attrs.as<NameAttrs>().name;
      auto [at, fresh] = seen.try_emplace(name, value->type);
      if (fresh) out.push_back({name, value->type});
      if (at->second != value->type)
        fail(Code::InvalidArgument, "the weight '{}' is used as {} and as {}", name, at->second.text(), value->type.text());
    } else if (value->op == &call_op) {
      const auto& attrs = value->attrs.as<CallAttrs>();
      collect_weights(attrs.function->graph, prefix + attrs.prefix, out, seen);
    }
  }
}
}  // namespace

std::vector<WeightUse> weights_of(const Graph& graph) {
  std::vector<WeightUse> out;
  std::unordered_map<std::string, Type> seen;
  collect_weights(graph, "", out, seen);
  return out;
}

namespace {
void verify_node(const Node& node, const Graph& graph, uint32_t position) {
  auto broken = [&](std::string_view promise) { fail(Code::Internal, "node {} ({}): {}", position, node.op->name, promise); };
  if (node.id != position) broken("its number is not its position");
  if (node.graph != &graph) broken("it belongs to another graph");
  for (Value input : node.inputs) {
    if (!input || input->graph != &graph) broken("an input is empty or of another graph");
    if (input->id >= node.id) broken("an input comes after it");
  }
  Type inferred;
  try {
    inferred = node.op->infer(node);
  } catch (const Error& e) {
    broken(e.message());
  }
  if (inferred != node.type) broken("its type is not what its op infers");
}

void verify(const Graph& graph, std::unordered_set<const Graph*>& done) {
  if (!done.insert(&graph).second) return;
  uint32_t position = 0;
  std::unordered_map<Digest, const Node*, DigestHash> contents;
  for (const Node& node : graph.nodes()) {
    verify_node(node, graph, position++);
    auto [twin, fresh] = contents.emplace(content_of(*node.op, node.inputs, node.attrs), &node);
    if (!fresh) fail(Code::Internal, "node {} ({}): node {} has the same content", node.id, node.op->name, twin->second->id);
    if (node.op == &call_op) verify(node.attrs.as<CallAttrs>().function->graph, done);
  }
  for (Value input : graph.inputs())
    if (!input || input->graph != &graph || input->op != &input_op)
      fail(Code::Internal, "the list of inputs holds what is no input of the graph");
  for (const Output& output : graph.outputs())
    if (!output.value || output.value->graph != &graph)
      fail(Code::Internal, "output '{}' is not a value of the graph", output.name);
}
}  // namespace

void verify(const Graph& graph) {
  std::unordered_set<const Graph*> done;
  verify(graph, done);
}

namespace {
using Functions = std::unordered_map<const Function*, std::shared_ptr<const Function>>;
void copy_graph(const Graph& from, Graph& to, const Bindings& bindings, const Rewrite& rewrite, Functions& functions);

/// The function for these bindings; calls of one function share one result.
std::shared_ptr<const Function> bound(const std::shared_ptr<const Function>& function, const Bindings& bindings,
                                      Functions& functions) {
  auto& copy = functions[function.get()];
  if (copy) return copy;
  auto made = std::make_shared<Function>();
  made->name = function->name;
  copy_graph(function->graph, made->graph, bindings, {}, functions);
  return functions[function.get()] = made;
}

void copy_graph(const Graph& from, Graph& to, const Bindings& bindings, const Rewrite& rewrite, Functions& functions) {
  std::unordered_map<const Node*, Value> copies;
  auto copy = [&](const Node& node) {
    std::vector<Value> inputs;
    for (Value input : node.inputs) inputs.push_back(copies.at(input.node()));
    Value made = rewrite ? rewrite(node, inputs, to) : Value();
    if (!made) {
      Attrs attrs = substitute(node.attrs, bindings);
      if (node.op == &call_op && !bindings.empty()) {
        auto call = attrs.as<CallAttrs>();
        call.function = bound(call.function, bindings, functions);
        attrs = Attrs::of(std::move(call));
      }
      if (node.op == &input_op) {
        const auto& a = attrs.as<NameAttrs>();
        made = to.input(a.name, a.type());
      } else {
        made = to.add(*node.op, std::move(inputs), std::move(attrs));
      }
    }
    copies[&node] = made;
  };
  for (Value input : from.inputs()) copy(*input);
  for (Value value : topological_order(from))
    if (value->op != &input_op) copy(*value);
  for (const Output& output : from.outputs()) to.output(output.name, copies.at(output.value.node()));
}

}  // namespace

void copy_graph(const Graph& from, Graph& to, const Bindings& bindings, const Rewrite& rewrite) {
  Functions functions;
  copy_graph(from, to, bindings, rewrite, functions);
}

}  // namespace sinter
