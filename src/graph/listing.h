#pragma once
#include <string>
#include <utility>
#include <vector>

#include "graph/graph.h"

namespace sinter {

/// A graph as people look at it: weights and single numbers stand where they are used, functions are listed once. The printers
/// in print.h differ only in how they draw this.
struct Listing {
  enum class Kind { input, op, call };
  struct Argument {
    int item = -1;     ///< number of an item of the section, or -1:
    std::string text;  ///< a weight or a number, written out
  };
  struct Item {
    Kind kind = Kind::op;
    std::string label;  ///< the op's name, the input's name, or the function's label
    std::vector<Argument> arguments;
    std::string attributes;  ///< "stride=2, top=1"
    std::string type;
  };
  struct Section {
    std::string title;
    std::vector<std::string> callers;  ///< full prefixes of the calls of a function; none for the graph itself
    std::vector<Item> items;
    std::vector<std::pair<std::string, int>> outputs;
  };
  std::vector<Section> sections;  ///< the graph, then its functions, callers first
};

Listing list_graph(const Graph& graph);

}  // namespace sinter
