#include <algorithm>
#include <filesystem>

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
  options.add_option("--block", o.block, "only this block, by its label or a place such as input_blocks.1.0; see --blocks");
  options.add_flag("--blocks", o.blocks, "list the blocks instead, and where each is called");
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

struct Block {
  std::shared_ptr<const Function> function;
  std::vector<std::string> places;  ///< prefixes of the weights of each call, without the last dot
};

/// Every function that a graph calls, also from within others, in the order of first calls.
void collect(const Graph& graph, const std::string& outer, std::vector<Block>& found) {
  for (const Value& value : topological_order(graph)) {
    if (value->op != &call_op) continue;
    const auto& call = value->attrs.as<CallAttrs>();
    std::string place = outer + call.prefix;
    auto block = std::ranges::find(found, call.function, &Block::function);
    if (block == found.end()) block = found.insert(found.end(), {call.function, {}});
    block->places.push_back(place.substr(0, place.find_last_not_of('.') + 1));
    collect(call.function->graph, place, found);
  }
}

std::vector<Block> blocks_of(const Graph& graph) {
  std::vector<Block> blocks;
  collect(graph, "", blocks);
  return blocks;
}

/// By the label of the block, or by a place where it is called.
std::shared_ptr<const Function> find_block(const std::vector<Block>& blocks, const std::string& name) {
  std::vector<std::string> names;
  for (const Block& block : blocks) {
    if (block.function->name == name || std::ranges::find(block.places, name) != block.places.end()) return block.function;
    names.push_back(block.function->name);
    names.insert(names.end(), block.places.begin(), block.places.end());
  }
  fail(Code::NotFound, "there is no block \"{}\"{}; `sinter graph FILE --blocks` lists them", name, suggestion(name, names));
}

std::string list_blocks(const Graph& graph) {
  constexpr size_t kShown = 3;
  std::vector<std::vector<std::string>> rows = {{"block", "nodes", "calls", "at"}};
  for (const Block& block : blocks_of(graph)) {
    std::string places;
    for (size_t i = 0; i < std::min(kShown, block.places.size()); ++i) places += (i ? ", " : "") + block.places[i];
    if (block.places.size() > kShown) places += ", ...";
    rows.push_back({block.function->name, std::to_string(block.function->graph.nodes().size()),
                    std::to_string(block.places.size()), places});
  }
  return table(rows);
}

std::string text_of(const Graph& graph, const GraphOptions& o) {
  if (o.blocks) return list_blocks(graph);
  auto block = o.block.empty() ? nullptr : find_block(blocks_of(graph), o.block);
  const Graph& shown = block ? block->graph : graph;
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
