#include "graph/listing.h"

#include <fmt/core.h>

#include <map>

#include "graph/ops.h"
#include "graph/ops/support.h"

namespace sinter {
namespace {

bool is_number(const Node& n) { return n.op == &constant_op && n.attrs.as<ConstantAttrs>().value.count() == 1; }

std::string number_text(const Node& n) {
  const Tensor& value = n.attrs.as<ConstantAttrs>().value;
  if (value.dtype() == DType::f64 || !is_float(value.dtype())) return fmt::format("{}", doubles_of(value)[0]);
  return fmt::format("{}", value.to(DType::f32).f32()[0]);  // the shortest text for the shorter type
}

/// How a weight or a single number is written where it is used, broadcast or cast as it may be; empty for anything else.
std::string inline_text(const Node& n) {
  if (n.op == &weight_op) return "weight \"" + n.attrs.as<NameAttrs>().name + "\"";
  if (is_number(n)) return number_text(n);
  if (n.op == &broadcast_op) return inline_text(*n.inputs[0]);
  if (n.op != &cast_op) return "";
  std::string inner = inline_text(*n.inputs[0]);
  return inner.empty() ? "" : std::string(name(n.type.dtype)) + "(" + inner + ")";
}

std::string attribute_list(const Node& n) {
  std::string out;
  for (auto& [field, text] : n.attrs.texts()) {
    // Types say the shape; functions and names are labels.
    bool said = field == "name" || field == "function" || n.op == &reshape_op || n.op == &broadcast_op || n.op == &input_op ||
                n.op == &weight_op;
    if (!said) out += (out.empty() ? "" : ", ") + field + "=" + text;
  }
  return out;
}

class Lister {
 public:
  Listing run(const Graph& graph) {
    add_section("graph", graph);
    count_calls(graph, "");
    for (auto& [function, section] : sections_) out_.sections[section].callers = callers_[function];
    return std::move(out_);
  }

 private:
  /// Functions follow in the order in which they are first called.
  void add_section(const std::string& title, const Graph& graph) {
    size_t at = out_.sections.size();
    out_.sections.push_back({title, {}, {}, {}});
    Listing::Section section = list(title, graph);
    out_.sections[at] = std::move(section);
    for (Value value : topological_order(graph)) {
      if (value->op != &call_op) continue;
      const Function& function = *value->attrs.as<CallAttrs>().function;
      if (!sections_.try_emplace(&function, out_.sections.size()).second) continue;
      add_section("function \"" + function.name + "\"", function.graph);
    }
  }

  static Listing::Section list(const std::string& title, const Graph& graph) {
    Listing::Section section{title, {}, {}, {}};
    std::map<const Node*, int> numbers;
    std::vector<Value> order = graph.inputs();
    for (Value value : topological_order(graph))
      if (value->op != &input_op) order.push_back(value);
    auto is_output = [&](Value value) {
      for (const Output& output : graph.outputs())
        if (output.value == value) return true;
      return false;
    };
    for (Value value : order) {
      if (!inline_text(*value).empty() && !is_output(value)) continue;
      numbers[value.node()] = int(section.items.size());
      section.items.push_back(item(*value, numbers));
    }
    for (const Output& output : graph.outputs()) section.outputs.emplace_back(output.name, numbers.at(output.value.node()));
    return section;
  }

  static Listing::Item item(const Node& n, const std::map<const Node*, int>& numbers) {
    Listing::Item item;
    item.label = std::string(n.op->name);
    if (n.op == &input_op || n.op == &weight_op) item.label += " \"" + n.attrs.as<NameAttrs>().name + "\"";
    if (n.op == &call_op) item.label += " \"" + n.attrs.as<CallAttrs>().function->name + "\"";
    item.kind = n.op == &input_op ? Listing::Kind::input : n.op == &call_op ? Listing::Kind::call : Listing::Kind::op;
    for (Value input : n.inputs) {
      auto at = numbers.find(input.node());
      item.arguments.push_back(at != numbers.end() ? Listing::Argument{at->second, {}}
                                                   : Listing::Argument{-1, inline_text(*input)});
    }
    item.attributes = attribute_list(n);
    item.type = n.type.text();
    return item;
  }

  void count_calls(const Graph& graph, const std::string& prefix) {
    for (Value value : topological_order(graph)) {
      if (value->op != &call_op) continue;
      const auto& call = value->attrs.as<CallAttrs>();
      callers_[call.function.get()].push_back(prefix + call.prefix);
      count_calls(call.function->graph, prefix + call.prefix);
    }
  }

  Listing out_;
  std::map<const Function*, size_t> sections_;
  std::map<const Function*, std::vector<std::string>> callers_;
};

}  // namespace

Listing list_graph(const Graph& graph) { return Lister().run(graph); }

}  // namespace sinter
