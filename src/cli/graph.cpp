#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/file.h"
#include "cli/arguments.h"
#include "cli/component_graph.h"
#include "cli/output.h"
#include "cli/suggest.h"
#include "graph/ops.h"
#include "graph/print.h"

namespace sinter {
namespace {

struct GraphOptions {
  std::string file, component, block, format = "text", out;
  bool blocks = false;
};

GraphOptions parse(Arguments arguments) {
  GraphOptions o;
  Options options(graph_verb);
  std::vector<std::string> components;
  for (const ComponentGraph& which : component_graphs()) components.emplace_back(which.name);
  options.add_option("FILE", o.file, "checkpoint, diffusers folder, or a file of one network")->required();
  options.add_option("--component", o.component, "which network (default: the denoiser, or the only one)")
      ->check(one_of(components));
  options.add_option("--block", o.block, "only the block of this name; see --blocks");
  options.add_flag("--blocks", o.blocks, "list the blocks instead, and how often each is called");
  options.add_option("--format", o.format, "text, a Graphviz file, or a picture")
      ->check(one_of({"text", "dot", "svg"}))
      ->capture_default_str();
  options.add_option("--out", o.out, "write to this file instead of standard output");
  options.parse_arguments(arguments);
  return o;
}

struct Source {
  const Family* family = nullptr;
  Component component{};
  Weights weights;
};

/// A whole model has a family; a network alone is opened as what it is.
Source open(const std::string& file, std::optional<ComponentGraph> wanted) {
  std::error_code ignored;
  bool pipeline = std::filesystem::exists(std::filesystem::path(file) / "model_index.json", ignored);
  Detected detected = pipeline ? Detected{} : detect_family(Checkpoint::open(file));
  if (!pipeline && (detected.content == FileContent::Lora || detected.content == FileContent::TextualInversion))
    fail(Code::InvalidArgument, "{} is {}, which has no graph of its own; give a model", file, detected.summary);
  if (detected.content != FileContent::Model)
    return {nullptr, detected.component, open_component(file, wanted ? wanted->component : detected.component)};
  ModelParts model = open_model(file);
  Component component = wanted ? wanted->component : Component::Denoiser;
  return {model.family, component, model.weights(component)};
}

using Functions = std::vector<std::pair<std::shared_ptr<const Function>, int>>;

/// Every function that a graph calls, also from within others, in the order of first calls, with the number of calls.
void collect(const Graph& graph, int times, Functions& found) {
  for (const Value& value : topological_order(graph)) {
    if (value->op != &call_op) continue;
    const auto& function = value->attrs.as<CallAttrs>().function;
    auto at = std::ranges::find(found, function, &Functions::value_type::first);
    if (at == found.end()) at = found.insert(found.end(), {function, 0});
    at->second += times;
    collect(function->graph, times, found);
  }
}

const Graph& find_block(const Graph& graph, const std::string& name) {
  Functions functions;
  collect(graph, 1, functions);
  std::vector<std::string> names;
  for (auto& [function, calls] : functions) {
    if (function->name == name) return function->graph;
    names.push_back(function->name);
  }
  std::string list;
  std::set<std::string> listed;
  for (const std::string& other : names)
    if (listed.insert(other).second) list += "\n  " + other;
  fail(Code::NotFound, "there is no block \"{}\"{}; there are:{}", name, suggestion(name, names), list);
}

std::string list_blocks(const Graph& graph) {
  Functions functions;
  collect(graph, 1, functions);
  std::vector<std::vector<std::string>> rows = {{"block", "calls", "nodes"}};
  for (auto& [function, calls] : functions)
    rows.push_back({function->name, std::to_string(calls), std::to_string(function->graph.nodes().size())});
  return table(rows);
}

std::string text_of(const Graph& graph, const GraphOptions& o) {
  if (o.blocks) return list_blocks(graph);
  const Graph& shown = o.block.empty() ? graph : find_block(graph, o.block);
  return o.format == "dot" ? graph_dot(shown) : o.format == "svg" ? graph_svg(shown) : graph_text(shown);
}

int run_graph(Arguments arguments) {
  GraphOptions o = parse(arguments);
  std::optional<ComponentGraph> wanted;
  for (const ComponentGraph& which : component_graphs())
    if (which.name == o.component) wanted = which;
  Source source = open(o.file, wanted);
  if (!wanted) wanted = *std::ranges::find(component_graphs(), source.component, &ComponentGraph::component);
  std::string text = text_of(*build_component_graph(*wanted, source.family, source.weights), o);
  if (o.out.empty())
    print(text);
  else
    write_atomically(o.out, text);
  return kSuccess;
}

}  // namespace

const Verb graph_verb = {.name = "graph", .summary = "Print the graph of a network, or of one of its blocks", .run = run_graph};

}  // namespace sinter
