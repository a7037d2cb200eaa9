#include <algorithm>
#include <map>
#include <unordered_map>

#include "compiler/lowering/vendor_rules.h"
#include "graph/ops.h"

namespace sinter {
namespace {

using Users = std::unordered_map<const Node*, std::vector<const Node*>>;

/// A graph's output counts as a user, null.
Users users_of(const Graph& graph) {
  Users users;
  for (Value v : topological_order(graph))
    for (Value input : v->inputs) users[input.node()].push_back(v.node());
  for (const Output& output : graph.outputs()) users[output.value.node()].push_back(nullptr);
  return users;
}

/// A weight, perhaps converted.
const Node* weight_below(Value v) {
  const Node* n = v->op == &cast_op ? v->inputs[0].node() : v.node();
  return n->op == &weight_op ? n : nullptr;
}

Value bias_below(Value v) { return v->op == &broadcast_op ? v->inputs[0] : v; }

/// The same weight, perhaps converted, in another graph.
Value copy_weight(Value v, Graph& to) {
  if (v->op == &cast_op) return cast(copy_weight(v->inputs[0], to), v.dtype());
  return to.add(weight_op, {}, v->attrs);
}

// Linear layers of one input ---------------------------------------------------------------------------------------------

/// Linear layers that multiply the same rows with weights of equal width, and are not followed by a bias, which belongs in the
/// product's tail.
class JointLinears {
 public:
  explicit JointLinears(const Graph& graph) {
    Users users = users_of(graph);
    for (Value v : topological_order(graph))
      if (v->op == &linear_op && joins(*v, users))
        groups_[{v->inputs[0].node(), weight_below(v->inputs[1])->type.dtype}].push_back(v);
  }

  Value operator()(const Node& n, std::span<const Value> in, Graph& to) const {
    if (n.op != &linear_op || !weight_below(n.inputs[1])) return {};
    auto at = groups_.find({n.inputs[0].node(), weight_below(n.inputs[1])->type.dtype});
    if (at == groups_.end() || at->second.size() < 2) return {};
    std::vector<Value> weights;
    Dim begin = 0;
    bool found = false;
    for (Value member : at->second) {
      weights.push_back(copy_weight(member->inputs[1], to));
      found = found || member.node() == &n;
      if (!found) begin = begin + member.dim(-1);
    }
    if (!found) return {};
    return slice(linear(in[0], concat(weights, 0)), int(n.type.shape.size()) - 1, begin, n.type.shape.back());
  }

 private:
  static bool joins(const Node& n, const Users& users) {
    if (!weight_below(n.inputs[1])) return false;
    auto is_sum = [](const Node* user) { return user && user->op->name == "add"; };
    const auto& of = users.at(&n);
    return std::none_of(of.begin(), of.end(), is_sum);
  }
  std::map<std::pair<const Node*, DType>, std::vector<Value>> groups_;
};

// Parts of one linear layer ----------------------------------------------------------------------------------------------

/// A linear layer with bias whose result is only read in slices, one of which goes through GELU: a product for each slice can do
/// the GELU itself, and write to the slice's own place.
class SlicedLinears {
 public:
  explicit SlicedLinears(const Graph& graph) {
    Users users = users_of(graph);
    for (Value v : topological_order(graph)) {
      if (v->op->name != "add" || v->inputs[0]->op != &linear_op) continue;
      const Node& product = *v->inputs[0];
      Value bias = bias_below(v->inputs[1]);
      bool whole = weight_below(product.inputs[1]) && weight_below(bias) && bias.rank() == 1 && users.at(&product).size() == 1;
      const auto& readers = users.at(v.node());
      auto is_slice = [&](const Node* n) {
        return n && n->op == &slice_op && n->attrs.as<SliceAttrs>().axis == v.rank() - 1 &&
               n->attrs.as<SliceAttrs>().begin.is_constant();
      };
      auto is_gelu = [](const Node* n) { return n && n->op->name == "gelu_tanh"; };
      auto feeds_gelu = [&](const Node* n) { return std::all_of(users.at(n).begin(), users.at(n).end(), is_gelu); };
      if (whole && std::all_of(readers.begin(), readers.end(), is_slice) &&
          std::any_of(readers.begin(), readers.end(), feeds_gelu))
        for (const Node* reader : readers) sliced_[reader] = v;
    }
  }

  Value operator()(const Node& n, std::span<const Value>, Graph& to, const std::function<Value(Value)>& mapped) const {
    auto at = sliced_.find(&n);
    if (at == sliced_.end()) return {};
    const auto& a = n.attrs.as<SliceAttrs>();
    const Node& product = *at->second->inputs[0];
    auto rows = [&](Value weight) { return slice(copy_weight(weight, to), 0, a.begin, a.length); };
    return linear(mapped(product.inputs[0]), rows(product.inputs[1])) + rows(bias_below(at->second->inputs[1]));
  }

 private:
  std::unordered_map<const Node*, Value> sliced_;
};

// Slices that are joined -------------------------------------------------------------------------------------------------

/// concat(reshape(slice(a)), reshape(slice(b))) -> reshape(slice(concat(a, b))), where the slices are equal and of the last axis,
/// and the reshapes divide it only: a and b can then be computed in their places, and nothing is copied.
Value joined_slices(const Node& n, std::span<const Value> in, Graph&) {
  if (n.op != &concat_op) return {};
  int64_t axis = n.attrs.as<AxisAttrs>().axis;
  std::vector<Value> sources;
  const SliceAttrs* first = nullptr;
  for (Value part : in) {
    Value sliced = part->op == &reshape_op ? part->inputs[0] : part;
    if (sliced->op != &slice_op) return {};
    const auto& a = sliced->attrs.as<SliceAttrs>();
    Value source = sliced->inputs[0];
    bool fits = a.axis == sliced.rank() - 1 && axis < sliced.rank() - 1 &&
                std::equal(sliced.shape().begin(), sliced.shape().end() - 1, part.shape().begin());
    if (!fits || (first && !(first->begin == a.begin && first->length == a.length)) ||
        (!sources.empty() && !(source.dim(-1) == sources[0].dim(-1))))
      return {};
    first = &a;
    sources.push_back(source);
  }
  Value joined = concat(sources, int(axis));
  return reshape(slice(joined, joined.rank() - 1, first->begin, first->length), n.type.shape);
}

}  // namespace

void apply_vendor_rules(const Graph& from, Graph& to) {
  Graph split, joined;
  SlicedLinears sliced(from);
  std::unordered_map<const Node*, Value> seen;
  auto mapped = [&](Value v) { return seen.at(v.node()); };
  copy_graph(from, split, {}, [&](const Node& n, std::span<const Value> in, Graph& graph) {
    for (size_t i = 0; i < in.size(); ++i) seen[n.inputs[i].node()] = in[i];
    // What a slice reads is two nodes above it; the product has been copied by then.
    return sliced(n, in, graph, mapped);
  });
  JointLinears joint(split);
  copy_graph(split, joined, {}, joint);
  copy_graph(joined, to, {}, joined_slices);
}

}  // namespace sinter
