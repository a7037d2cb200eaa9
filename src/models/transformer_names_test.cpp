#include <doctest/doctest.h>

#include <algorithm>
#include <set>

#include "base/sha256.h"
#include "models/clip.h"
#include "models/flux.h"
#include "models/t5.h"

using namespace sinter;

namespace {

struct Listing {
  size_t tensors = 0;
  int64_t parameters = 0;
  std::string digest;  ///< the first 16 digits of SHA-256 over sorted lines "name<TAB>d0,d1<LF>"
};

Listing listing(const Graph& graph) {
  Listing out;
  std::vector<std::string> lines;
  for (const WeightUse& use : weights_of(graph)) {
    std::string line = use.name + "\t";
    for (size_t i = 0; i < use.type.shape.size(); ++i) line += (i ? "," : "") + std::to_string(use.type.shape[i].constant());
    lines.push_back(line + "\n");
    out.parameters += element_count(use.type.shape).constant();
  }
  std::ranges::sort(lines);
  out.tensors = lines.size();
  std::string all;
  for (const std::string& line : lines) all += line;
  out.digest = sha256_hex(all).substr(0, 16);
  return out;
}

void check_listing(const Graph& graph, size_t tensors, int64_t parameters, const std::string& digest) {
  Listing ours = listing(graph);
  CHECK(ours.tensors == tensors);
  CHECK(ours.parameters == parameters);
  CHECK(ours.digest == digest);
}

Graph& flux(Graph& graph, const FluxConfig& config) {
  build_flux(graph, config, {1, Dim::symbol("height"), Dim::symbol("width"), Dim::symbol("text")});
  return graph;
}

}  // namespace

TEST_CASE("text encoders of full size have the weights of the published files") {
  Graph l, g, t5;
  build_clip(l, clip_l_config(), 1, {{ClipOutput::hidden, "last"}});
  check_listing(l, 196, 123'060'480, "2bf08036a32f0468");
  build_clip(g, clip_g_config(), 1, {{ClipOutput::projected, "pooled"}});
  check_listing(g, 517, 694'659'840, "6e1a5a22ac581cde");
  build_t5(t5, {}, 1, Dim::symbol("tokens"));
  check_listing(t5, 219, 4'762'310'656, "22eeda6401f40673");
}

TEST_CASE("FLUX of full size has the weights of the published files") {
  Graph dev, schnell, fill;
  check_listing(flux(dev, {}), 780, 11'901'408'320, "54f41176ae5ce6f9");
  check_listing(flux(schnell, {.guidance = false}), 776, 11'891'178'560, "c07962851a81b0ba");
  check_listing(flux(fill, {.in_channels = 96}), 780, 11'902'391'360, "702259a2156fd28d");
}

TEST_CASE("equal blocks of a transformer are one function") {
  auto functions = [](const Graph& graph) {
    std::set<const Function*> distinct;
    for (const Node& node : graph.nodes())
      if (node.op == &call_op) distinct.insert(node.attrs.as<CallAttrs>().function.get());
    return distinct.size();
  };
  Graph graph, clip, t5;
  CHECK(functions(flux(graph, {})) == 2);
  build_clip(clip, clip_l_config(), 1, {{ClipOutput::hidden, "last"}});
  CHECK(functions(clip) == 1);
  build_t5(t5, {}, 1, Dim::symbol("tokens"));
  CHECK(functions(t5) == 1);
}

TEST_CASE("layers of a text encoder that no output needs are not built") {
  Graph graph;
  build_clip(graph, clip_l_config(), 1, {{ClipOutput::hidden, "penultimate", -2, false}});
  for (const WeightUse& use : weights_of(graph)) {
    CHECK(use.name.find("layers.11.") == std::string::npos);
    CHECK(use.name.find("final_layer_norm") == std::string::npos);
  }
  Graph wrong;
  CHECK_THROWS_WITH_AS(build_clip(wrong, clip_l_config(), 1, {{ClipOutput::hidden, "x", -13}}),
                       doctest::Contains("the layer -13 does not exist"), Error);
}
