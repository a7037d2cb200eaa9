#include "compiler/passes/hoist.h"

#include <algorithm>
#include <map>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "compiler/passes/smallest_cut.h"
#include "graph/ops.h"

namespace sinter {
namespace {

using Nodes = std::unordered_set<const Node*>;

/// Two functions that together are one, and the positions of its parameters that each takes. The step takes the prelude's results
/// behind its parameters.
struct Split {
  std::shared_ptr<Function> prelude = std::make_shared<Function>(), step = std::make_shared<Function>();
  std::vector<size_t> prelude_parameters, step_parameters;
};

bool is_product(const OpDef& op) {
  for (const OpDef* product : {&linear_op, &conv2d_op, &matmul_op, &attention_op, &call_op, &result_op})
    if (&op == product) return true;
  return false;
}

void collect_symbols(const Node& node, std::vector<SymbolId>& symbols) {
  for (const Dim& dim : node.type.shape) dim.collect_symbols(symbols);
  Hasher unused;
  SymbolNumbering numbering;
  node.attrs.hash(unused, numbering);
  for (const auto& [id, number] : numbering.numbers()) {
    const Symbol& symbol = symbol_info(id);
    if (symbol.divisor == 0)
      symbols.push_back(id);
    else
      symbol.numerator.collect_symbols(symbols);
  }
}

class Hoisting {
 public:
  Hoisting(std::string name, std::set<SymbolId> known) : name_(std::move(name)) {
    // Prices need some size for every symbol; which one hardly matters, for what crosses is compared with what it comes from.
    constexpr int64_t kTypical = 64;
    for (SymbolId symbol : known) sizes_[symbol] = kTypical;
  }

  /// Null where nothing is worth hoisting. `steady`: of the parameters.
  const Split* split(const Graph& graph, const std::string& label, const std::vector<bool>& steady);

 private:
  bool sizes_known(const Node& node) const {
    std::vector<SymbolId> symbols;
    collect_symbols(node, symbols);
    return std::all_of(symbols.begin(), symbols.end(), [&](SymbolId s) { return sizes_.contains(s); });
  }
  /// Bytes; of equally many, fewer values are better.
  int64_t price(Value v) const {
    return std::max<int64_t>(element_count(v.shape()).value(sizes_), 1) * byte_size(v.dtype()) * 1000 + 1;
  }

  friend class GraphSplitter;
  std::string name_;
  Bindings sizes_;
  std::map<std::pair<const Graph*, std::vector<bool>>, std::optional<Split>> splits_;
};

/// Splits one graph.
class GraphSplitter {
 public:
  GraphSplitter(Hoisting& hoisting, const Graph& graph, const std::vector<bool>& steady)
      : hoisting_(hoisting), graph_(graph), order_(topological_order(graph)) {
    for (size_t i = 0; i < graph.inputs().size(); ++i)
      if (steady[i]) steady_.insert(graph.inputs()[i].node()), fed_.insert(graph.inputs()[i].node());
    classify();
    choose_cut();
  }

  bool hoists() const { return !crossing_.empty(); }

  void build(Split& split) {
    build_prelude(split);
    build_step(split);
  }

 private:
  /// What the step computes a node from; a split call takes fewer arguments.
  std::vector<Value> step_inputs(Value v) const {
    auto at = calls_.find(v.node());
    return at == calls_.end() ? v->inputs : chosen(v->inputs, at->second->step_parameters);
  }
  static std::vector<Value> chosen(const std::vector<Value>& all, const std::vector<size_t>& positions) {
    std::vector<Value> values;
    for (size_t i : positions) values.push_back(all[i]);
    return values;
  }

  void classify() {
    auto is_steady = [&](Value v) { return steady_.contains(v.node()); };
    for (Value v : order_) {
      if (v->op == &input_op) continue;
      if (std::all_of(v->inputs.begin(), v->inputs.end(), is_steady) && hoisting_.sizes_known(*v)) {
        steady_.insert(v.node());
        if (std::any_of(v->inputs.begin(), v->inputs.end(), [&](Value i) { return fed_.contains(i.node()); }))
          fed_.insert(v.node());
      } else if (v->op == &call_op) {
        std::vector<bool> arguments;
        for (Value input : v->inputs) arguments.push_back(fed_.contains(input.node()));
        if (std::find(arguments.begin(), arguments.end(), true) == arguments.end()) continue;
        const Function& function = *v->attrs.as<CallAttrs>().function;
        if (const Split* split = hoisting_.split(function.graph, function.name, arguments)) calls_[v.node()] = split;
      }
    }
  }

  /// The nodes that are computed for the outputs in the step, those of `stop` without what they come from.
  Nodes needed_in_step(const Nodes& stop) const {
    Nodes needed;
    for (const Output& output : graph_.outputs()) needed.insert(output.value.node());
    for (auto v = order_.rbegin(); v != order_.rend(); ++v)
      if (needed.contains(v->node()) && !stop.contains(v->node()))
        for (Value input : step_inputs(*v)) needed.insert(input.node());
    return needed;
  }

  void choose_cut() {
    Nodes needed = needed_in_step(steady_);
    std::vector<CutNode> nodes;
    std::vector<Value> values;
    std::unordered_map<const Node*, int> numbers;
    for (Value v : order_) {
      if (!fed_.contains(v.node())) continue;
      CutNode node{hoisting_.price(v), {}, is_product(*v->op), needed.contains(v.node())};
      for (Value input : v->inputs)
        if (auto at = numbers.find(input.node()); at != numbers.end()) node.sources.push_back(at->second);
      if (!node.given && node.sources.empty()) continue;
      numbers[v.node()] = int(nodes.size());
      nodes.push_back(std::move(node));
      values.push_back(v);
    }
    for (int i : smallest_cut(nodes)) cut_.insert(values[size_t(i)].node());
    for (Value v : order_)
      if (cut_.contains(v.node()) || (calls_.contains(v.node()) && needed.contains(v.node()))) crossing_.push_back(v);
  }

  using Copies = std::unordered_map<const Node*, Value>;
  static std::vector<Value> copied(const std::vector<Value>& values, const Copies& copies) {
    std::vector<Value> out;
    for (Value v : values) out.push_back(copies.at(v.node()));
    return out;
  }

  /// The parameters that are needed become inputs of `to`; their positions are given.
  std::vector<size_t> copy_parameters(const Nodes& needed, Graph& to, Copies& copies) const {
    std::vector<size_t> positions;
    for (size_t i = 0; i < graph_.inputs().size(); ++i) {
      Value input = graph_.inputs()[i];
      if (!needed.contains(input.node())) continue;
      copies[input.node()] = to.input(input->attrs.as<NameAttrs>().name, input->type);
      positions.push_back(i);
    }
    return positions;
  }

  void build_prelude(Split& split) const {
    Nodes needed;
    for (Value v : crossing_) {
      if (auto at = calls_.find(v.node()); at == calls_.end())
        needed.insert(v.node());
      else
        for (Value argument : chosen(v->inputs, at->second->prelude_parameters)) needed.insert(argument.node());
    }
    for (auto v = order_.rbegin(); v != order_.rend(); ++v)
      if (needed.contains(v->node()))
        for (Value input : (*v)->inputs) needed.insert(input.node());
    Graph& to = split.prelude->graph;
    Copies copies;
    split.prelude_parameters = copy_parameters(needed, to, copies);
    for (Value v : order_)
      if (needed.contains(v.node()) && v->op != &input_op) copies[v.node()] = to.add(*v->op, copied(v->inputs, copies), v->attrs);
    for (Value v : crossing_) {
      auto at = calls_.find(v.node());
      std::vector<Value> results{at == calls_.end() ? copies.at(v.node()) : Value()};
      if (at != calls_.end())
        results = call(at->second->prelude, copied(chosen(v->inputs, at->second->prelude_parameters), copies),
                       v->attrs.as<CallAttrs>().prefix);
      for (Value result : results) to.output(crossing_name(to.outputs().size()), result);
    }
  }

  void build_step(Split& split) const {
    Nodes needed = needed_in_step(cut_);
    Graph& to = split.step->graph;
    Copies copies;
    split.step_parameters = copy_parameters(needed, to, copies);
    size_t count = 0;
    auto arrive = [&](const Type& type) { return to.input(crossing_name(count++), type); };
    std::unordered_map<const Node*, std::vector<Value>> arrived;  // for a split call
    for (Value v : crossing_) {
      if (auto at = calls_.find(v.node()); at == calls_.end())
        copies[v.node()] = arrive(v->type);
      else
        for (const Output& output : at->second->prelude->graph.outputs()) arrived[v.node()].push_back(arrive(output.value->type));
    }
    for (Value v : order_) {
      if (!needed.contains(v.node()) || copies.contains(v.node())) continue;
      std::vector<Value> inputs = copied(step_inputs(v), copies);
      Attrs attrs = v->attrs;
      if (auto at = calls_.find(v.node()); at != calls_.end()) {
        const auto& values = arrived.at(v.node());
        inputs.insert(inputs.end(), values.begin(), values.end());
        attrs = Attrs::of(CallAttrs{at->second->step, attrs.as<CallAttrs>().prefix});
      }
      copies[v.node()] = to.add(*v->op, std::move(inputs), std::move(attrs));
    }
    for (const Output& output : graph_.outputs()) to.output(output.name, copies.at(output.value.node()));
  }

  std::string crossing_name(size_t number) const { return hoisting_.name_ + " " + std::to_string(number); }

  Hoisting& hoisting_;
  const Graph& graph_;
  std::vector<Value> order_;
  Nodes steady_, fed_;  // computable in the prelude; and depending on a steady input
  std::unordered_map<const Node*, const Split*> calls_;
  Nodes cut_;
  std::vector<Value> crossing_;  // cut values and split calls
};

const Split* Hoisting::split(const Graph& graph, const std::string& label, const std::vector<bool>& steady) {
  auto [at, fresh] = splits_.try_emplace({&graph, steady});
  if (fresh) {
    GraphSplitter splitter(*this, graph, steady);
    if (splitter.hoists()) {
      Split split;
      split.prelude->name = label + ", " + name_;
      split.step->name = label;
      splitter.build(split);
      at->second = std::move(split);
    }
  }
  return at->second ? &*at->second : nullptr;
}

}  // namespace

Hoisted hoist(const Graph& graph, const std::set<std::string>& steady, const std::string& name) {
  std::set<std::string> missing = steady;
  std::set<SymbolId> known;
  std::vector<bool> parameters;
  for (Value input : graph.inputs()) {
    const auto& input_name = input->attrs.as<NameAttrs>().name;
    parameters.push_back(steady.contains(input_name));
    missing.erase(input_name);
    if (!parameters.back()) continue;
    for (const Dim& dim : input.shape())
      if (dim.terms().size() == 1 && dim.terms()[0].symbols.size() == 1 && dim.terms()[0].coefficient == 1)
        known.insert(dim.terms()[0].symbols[0]);
  }
  if (!missing.empty()) fail(Code::InvalidArgument, "hoist: the graph has no input '{}'", *missing.begin());
  Hoisting hoisting(name, std::move(known));
  const Split* split = hoisting.split(graph, "", parameters);
  Hoisted out{std::make_unique<Graph>(), std::make_unique<Graph>()};
  copy_graph(split ? split->step->graph : graph, *out.step);
  if (split) copy_graph(split->prelude->graph, *out.prelude);
  return out;
}

}  // namespace sinter
