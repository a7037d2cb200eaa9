#include "graph/print.h"

#include <fmt/core.h>

#include "graph/listing.h"

namespace sinter {
namespace {

std::string joined(const std::vector<std::string>& parts, size_t most) {
  std::string out;
  for (size_t i = 0; i < parts.size() && i < most; ++i) out += (i ? ", " : "") + parts[i];
  if (parts.size() > most) out += fmt::format(" and {} more", parts.size() - most);
  return out;
}

std::string item_text(const Listing::Item& item) {
  if (item.kind == Listing::Kind::input) return item.label;
  std::vector<std::string> parts;
  for (const auto& argument : item.arguments)
    parts.push_back(argument.item >= 0 ? fmt::format("%{}", argument.item) : argument.text);
  if (!item.attributes.empty()) parts.push_back(item.attributes);
  return item.label + "(" + joined(parts, parts.size()) + ")";
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (c == '\n')
      out += "\\n";
    else
      out += c;
  }
  return out + "\"";
}

}  // namespace

std::string graph_text(const Graph& graph) {
  std::string out;
  for (const auto& section : list_graph(graph).sections) {
    if (!out.empty()) out += "\n";
    out += section.title;
    if (!section.callers.empty()) out += fmt::format(", called {} times: {}", section.callers.size(), joined(section.callers, 8));
    out += "\n";
    for (size_t i = 0; i < section.items.size(); ++i)
      out += fmt::format("  %{} = {} : {}\n", i, item_text(section.items[i]), section.items[i].type);
    for (const auto& [name, item] : section.outputs) out += fmt::format("  output \"{}\" = %{}\n", name, item);
  }
  return out;
}

std::string graph_dot(const Graph& graph) {
  std::string out = "digraph sinter {\n  node [shape=box, fontname=\"sans-serif\", fontsize=10];\n";
  Listing listing = list_graph(graph);
  for (size_t s = 0; s < listing.sections.size(); ++s) {
    const auto& section = listing.sections[s];
    out += fmt::format("  subgraph cluster_{} {{\n    label={};\n", s, quoted(section.title));
    for (size_t i = 0; i < section.items.size(); ++i) {
      const auto& item = section.items[i];
      std::string label = item.label;
      for (const auto& argument : item.arguments)
        if (argument.item < 0) label += "\n" + argument.text;
      if (!item.attributes.empty()) label += "\n" + item.attributes;
      const char* style = item.kind == Listing::Kind::call ? ", style=filled, fillcolor=\"#ffe9c7\"" : "";
      out += fmt::format("    n{}_{} [label={}{}];\n", s, i, quoted(label + "\n" + item.type), style);
      for (const auto& argument : item.arguments)
        if (argument.item >= 0) out += fmt::format("    n{}_{} -> n{}_{};\n", s, argument.item, s, i);
    }
    for (size_t i = 0; i < section.outputs.size(); ++i) {
      const auto& [name, item] = section.outputs[i];
      out += fmt::format("    o{}_{} [label={}, shape=ellipse];\n    n{}_{} -> o{}_{};\n", s, i, quoted(name), s, item, s, i);
    }
    out += "  }\n";
  }
  return out + "}\n";
}

}  // namespace sinter
