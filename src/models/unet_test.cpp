#include "models/unet.h"

#include <doctest/doctest.h>

#include <set>

#include "parameter_table.h"
#include "refusal.h"
#include "sparse_checkpoint.h"
#include "temporary_folder.h"

namespace sinter {
namespace {

UnetSizes symbolic_sizes() {
  return {Dim::symbol("batch"), Dim::symbol("height"), Dim::symbol("width"), Dim::symbol("context_tokens")};
}

ParameterTable table_of(const UnetConfig& config) {
  Graph graph;
  build_unet(graph, config, symbolic_sizes());
  verify(graph);
  ParameterTable table;
  table.add(graph);
  return table;
}

UnetConfig sd2_config() {
  UnetConfig c = sd15_unet_config();
  c.context_width = 1024;
  c.heads = 0;
  c.head_size = 64;
  c.linear_projections = true;
  return c;
}

TEST_CASE("U-Nets declare exactly the weights of the released checkpoints") {
  struct Released {
    UnetConfig config;
    size_t tensors;
    int64_t parameters;
    const char* digest;
  };
  for (const Released& released : {Released{sd15_unet_config(), 686, 859520964, "5440e5ee45fc9982"},
                                   Released{sd2_config(), 686, 865910724, "190badf335159750"},
                                   Released{sdxl_unet_config(), 1680, 2567463684, "19c31fb397315128"}}) {
    ParameterTable table = table_of(released.config);
    CHECK(table.shapes.size() == released.tensors);
    CHECK(table.parameters() == released.parameters);
    CHECK(table.digest() == released.digest);
  }
}

TEST_CASE("a U-Net's config is read back from its weights") {
  UnetConfig inpaint = sd15_unet_config(), no_middle = sdxl_unet_config(), lone_middle = sdxl_unet_config();
  inpaint.in_channels = 9;
  no_middle.middle_depth = -2;
  lone_middle.middle_depth = -1;
  no_middle.levels[1].up_depths = {1, 0, 2};
  for (const UnetConfig& config : {sd15_unet_config(), sd2_config(), sdxl_unet_config(), inpaint, no_middle, lone_middle}) {
    TemporaryFolder folder;
    write_sparse_checkpoint(folder / "unet.safetensors", table_of(config).shapes);
    Weights weights = Weights::plain(Checkpoint::open(folder / "unet.safetensors"));
    CHECK(detect_unet(weights) == config);
  }
}

TEST_CASE("blocks of a U-Net that are equal are one function") {
  Graph graph;
  build_unet(graph, sdxl_unet_config(), symbolic_sizes());
  std::set<const Function*> transformers, residuals;
  int transformer_calls = 0, residual_calls = 0;
  for (const Node& node : graph.nodes()) {
    if (node.op != &call_op) continue;
    const Function* function = node.attrs.as<CallAttrs>().function.get();
    if (function->name.starts_with("transformer")) ++transformer_calls, transformers.insert(function);
    if (function->name.starts_with("residual")) ++residual_calls, residuals.insert(function);
  }
  CHECK(transformer_calls == 70);
  CHECK(transformers.size() == 2);
  CHECK(residual_calls == 17);
  CHECK(residuals.size() <= 12);
}

TEST_CASE("every size of a U-Net may be a symbol or a constant, also one that is no multiple of 8") {
  Graph symbolic, constant;
  build_unet(symbolic, sd15_unet_config(), symbolic_sizes());
  build_unet(constant, sd15_unet_config(), {2, 65, 97, 77});
  auto shape = [](const Graph& graph) { return graph.outputs().at(0).value.shape(); };
  CHECK(shape(symbolic) == Shape{Dim::symbol("batch"), 4, Dim::symbol("height"), Dim::symbol("width")});
  CHECK(shape(constant) == Shape{2, 4, 65, 97});
}

TEST_CASE("heads that do not divide the channels are refused") {
  UnetConfig config = sd15_unet_config();
  config.heads = 7;
  Graph graph;
  CHECK(contains(refusal([&] { build_unet(graph, config, symbolic_sizes()); }), "320 channels cannot be divided into 7 heads"));
}

}  // namespace
}  // namespace sinter
