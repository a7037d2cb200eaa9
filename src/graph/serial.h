#pragma once
#include <memory>
#include <string>
#include <string_view>

#include "graph/graph.h"

namespace sinter {

/// A graph as JSON that reads back to an equal structure_digest with all names. What no output needs is left out (inputs stay).
///
///   {"sinter_graph": 1, "digest": hex,
///    "symbols":   {name: [lower, upper, divisor]}          free symbols; quotients follow from the sizes that use them
///    "functions": [{"name", "nodes", "outputs"}]           a function before those that call it
///    "nodes":     [{"op", "inputs": [node number], "attributes": {field: text}}]   inputs first, in order
///    "outputs":   [[name, node number]]}
///
/// A constant's attributes are its dtype, shape and bytes (hexadecimal); a call's are the function's number and the prefix.
std::string write_graph(const Graph& graph);

/// Code::Corrupt, saying where, for anything that write_graph does not write; Code::Unsupported where a symbol is known in
/// this process with other facts.
std::unique_ptr<Graph> read_graph(std::string_view text);

}  // namespace sinter
