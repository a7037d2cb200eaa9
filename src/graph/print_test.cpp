#include "graph/print.h"

#include <doctest/doctest.h>

#include <regex>

#include "graph/listing.h"
#include "random_graph.h"
#include "refusal.h"

using namespace sinter;

namespace {
size_t count(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++n;
  return n;
}

void fill(Graph& g) {
  auto function = std::make_shared<Function>();
  function->name = "layer <3>";
  Value p = function->graph.input("p", {DType::f32, {2, 3}});
  function->graph.output("y", silu(linear(p, function->graph.weight("w", {DType::f32, {3, 3}}))));
  Value x = g.input("x", {DType::f32, {2, 3}});
  Value y = call(function, {call(function, {x}, "layers.0.")[0]}, "layers.1.")[0];
  g.output("y", reduce_sum(y * 0.1, {1}));
}
}  // namespace

TEST_CASE("the text has one line a node, weights and numbers where they are used, and functions once") {
  Graph g;
  fill(g);
  CHECK(graph_text(g) ==
        "graph\n"
        "  %0 = input \"x\" : f32[2, 3]\n"
        "  %1 = call \"layer <3>\"(%0, prefix=layers.0.) : f32[2, 3]\n"
        "  %2 = call \"layer <3>\"(%1, prefix=layers.1.) : f32[2, 3]\n"
        "  %3 = multiply(%2, 0.1) : f32[2, 3]\n"
        "  %4 = reduce_sum(%3, axes=[1]) : f32[2, 1]\n"
        "  output \"y\" = %4\n"
        "\n"
        "function \"layer <3>\", called 2 times: layers.0., layers.1.\n"
        "  %0 = input \"p\" : f32[2, 3]\n"
        "  %1 = linear(%0, weight \"w\") : f32[2, 3]\n"
        "  %2 = silu(%1) : f32[2, 3]\n"
        "  output \"y\" = %2\n");
}

TEST_CASE("dot has a node for each item and an arrow for each use") {
  for (uint32_t seed = 0; seed < 20; ++seed) {
    INFO("seed ", seed);
    Graph g;
    RandomGraph(seed).fill(g, 15);
    size_t items = 0, arrows = 0;
    for (const auto& section : list_graph(g).sections) {
      items += section.items.size() + section.outputs.size();
      arrows += section.outputs.size();
      for (const auto& item : section.items)
        for (const auto& argument : item.arguments) arrows += argument.item >= 0;
    }
    std::string dot = graph_dot(g);
    CHECK(count(dot, " [label=") == items);
    CHECK(count(dot, " -> ") == arrows);
    CHECK(count(dot, "{") == count(dot, "}"));
  }
}

TEST_CASE("no box of a drawing lies on another or outside, and names are escaped") {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    INFO("seed ", seed);
    Graph g;
    if (seed == 0)
      fill(g);
    else
      RandomGraph(seed).fill(g, 25);
    std::string svg = graph_svg(g);
    if (seed == 0) CHECK(contains(svg, "call &quot;layer &lt;3&gt;&quot;"));
    std::smatch size;
    REQUIRE(std::regex_search(svg, size, std::regex("<svg [^>]*width=\"(\\d+)\" height=\"(\\d+)\"")));
    struct Box {
      double x, y, width, height;
    };
    std::vector<Box> boxes;
    std::regex rect("<rect x=\"([-0-9.]+)\" y=\"([-0-9.]+)\" width=\"([0-9.]+)\" height=\"([0-9.]+)\"");
    for (std::sregex_iterator at(svg.begin(), svg.end(), rect), end; at != end; ++at)
      boxes.push_back({std::stod((*at)[1]), std::stod((*at)[2]), std::stod((*at)[3]), std::stod((*at)[4])});
    size_t items = 0;
    for (const auto& section : list_graph(g).sections) items += section.items.size() + section.outputs.size();
    CHECK(boxes.size() == items);
    for (size_t i = 0; i < boxes.size(); ++i) {
      const Box& a = boxes[i];
      CHECK((a.x >= 0 && a.y >= 0 && a.x + a.width <= std::stod(size[1]) && a.y + a.height <= std::stod(size[2])));
      for (size_t k = 0; k < i; ++k) {
        const Box& b = boxes[k];
        bool apart = a.x + a.width < b.x || b.x + b.width < a.x || a.y + a.height < b.y || b.y + b.height < a.y;
        CHECK(apart);
      }
    }
  }
}
