#include "models/scope.h"

namespace sinter {

Scope Scope::operator/(std::string_view name) const {
  return Scope(*graph_, *options_, blocks_, outer_, prefix_ + std::string(name) + ".");
}

Value Scope::weight(std::string_view name, Shape shape) const {
  std::string local = prefix_ + std::string(name);
  DType storage = options_->storage ? options_->storage(outer_ + local) : options_->compute;
  return cast(graph_->weight(local, {storage, std::move(shape)}), options_->compute);
}

std::vector<Value> Scope::block(const std::string& label, std::vector<Value> arguments, const Body& body) const {
  auto function = std::make_shared<Function>();
  function->name = label;
  std::vector<Value> parameters;
  for (size_t i = 0; i < arguments.size(); ++i)
    parameters.push_back(function->graph.input("x" + std::to_string(i), arguments[i]->type));
  Scope inner(function->graph, *options_, blocks_, outer_ + prefix_, "");
  for (Value result : body(inner, parameters))
    function->graph.output("y" + std::to_string(function->graph.outputs().size()), result);

  Hasher identity;
  identity.add(structure_digest(function->graph));
  for (Value weight : own_weights(function->graph)) identity.add(weight->attrs.as<NameAttrs>().name);
  for (Value value : topological_order(function->graph))
    if (value->op == &call_op) identity.add(value->attrs.as<CallAttrs>().prefix);
  // Sizes are part of it by name here: the callee's symbols are the caller's.
  for (Value parameter : parameters) identity.add(parameter->type.text());
  auto merged = blocks_->try_emplace(identity.digest(), function).first->second;
  return call(merged, std::move(arguments), prefix_);
}

Value linear_layer(const Scope& s, Value x, Dim out, bool bias) {
  Value y = linear(x, s.weight("weight", {out, x.dim(-1)}));
  return bias ? y + s.weight("bias", {out}) : y;
}

Value conv_layer(const Scope& s, Value x, Dim out, int64_t kernel, int64_t stride, int64_t padding) {
  Value y = conv2d(x, s.weight("weight", {out, x.dim(-1), kernel, kernel}), {stride, padding, padding, padding, padding});
  return y + s.weight("bias", {out});
}

Value group_norm_layer(const Scope& s, Value x, double epsilon, int64_t groups) {
  Value scale = s.weight("weight", {x.dim(-1)}), shift = s.weight("bias", {x.dim(-1)});
  return group_norm(x, scale, shift, groups, epsilon);
}

Value layer_norm_layer(const Scope& s, Value x, double epsilon) {
  Value scale = s.weight("weight", {x.dim(-1)}), shift = s.weight("bias", {x.dim(-1)});
  return layer_norm(x, epsilon) * scale + shift;
}

}  // namespace sinter
