#pragma once
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "compiler/passes/hoist.h"
#include "graph/ops.h"
#include "models/flux.h"
#include "models/unet.h"
#include "models/vae_image.h"
#include "tensor/tensor.h"

// The networks that benchmarks run on a GPU, at real size, with random inputs.

namespace sinter {

struct BenchModel {
  std::string name;
  int64_t width = 0, height = 0, batch = 1;
  std::unique_ptr<Graph> graph = std::make_unique<Graph>();
  Bindings sizes;
};

/// What is computed once a prompt or a timestep, and the rest.
struct BenchParts {
  std::vector<std::unique_ptr<Graph>> preludes;
  std::set<std::string> kept;  ///< inputs of the step that stay on the device for a whole picture
  std::unique_ptr<Graph> step;
};

inline FluxConfig flux_dev() {
  FluxConfig c;
  c.width = 3072, c.in_channels = c.out_channels = 16, c.head_size = 128, c.mlp = 12288;
  c.context_width = 4096, c.vector_width = 768, c.double_blocks = 19, c.single_blocks = 38;
  c.guidance = true, c.axes = {16, 56, 56};
  return c;
}

/// "sd15", "sdxl" (a prompt and its negative: batch 2), "flux", or "vae" (decoding). 0 pixels: the model's own size.
inline BenchModel make_bench_model(const std::string& name, DType dtype, int64_t width = 0, int64_t height = 0) {
  BenchModel m{name};
  const int64_t pixels = name == "sd15" ? 512 : 1024;
  m.width = width ? width : pixels, m.height = height ? height : pixels;
  m.batch = name == "sd15" || name == "sdxl" ? 2 : 1;
  BuildOptions build{.compute = dtype, .storage = {}};
  Dim batch = Dim::symbol("batch"), rows = Dim::symbol("height"), columns = Dim::symbol("width"), text = Dim::symbol("text");
  auto bind = [&](const Dim& dim, int64_t value) {
    std::vector<SymbolId> symbols;
    dim.collect_symbols(symbols);
    m.sizes[symbols.at(0)] = value;
  };
  bind(rows, m.height / 8), bind(columns, m.width / 8), bind(batch, m.batch);
  if (name != "vae") bind(text, name == "flux" ? 512 : 77);
  if (name == "flux")
    build_flux(*m.graph, flux_dev(), {batch, rows, columns, text}, build);
  else if (name == "vae")
    build_vae_decoder(*m.graph, sd_vae_config(), batch, rows, columns, build);
  else if (name == "sdxl" || name == "sd15")
    build_unet(*m.graph, name == "sdxl" ? sdxl_unet_config() : sd15_unet_config(), {batch, rows, columns, text}, build);
  else
    fail(Code::InvalidArgument, "{} is no model of this benchmark: there are sd15, sdxl, flux and vae", name);
  return m;
}

inline std::string input_name(Value input) { return input->attrs.as<NameAttrs>().name; }

/// The latent: "x" of a denoiser, all that a decoder has.
inline Value latent_input(const Graph& graph) {
  for (Value input : graph.inputs())
    if (input_name(input) == "x") return input;
  return graph.inputs().at(0);
}

/// The sizes for a latent of another size in pixels.
inline Bindings at_size(const Graph& graph, Bindings sizes, int64_t width, int64_t height) {
  auto rebind = [&](const Dim& dim, int64_t value) {
    std::vector<SymbolId> symbols;
    dim.collect_symbols(symbols);
    sizes.at(symbols.at(0)) = value;
  };
  Value latent = latent_input(graph);
  rebind(latent.shape().at(2), height / 8), rebind(latent.shape().at(3), width / 8);
  return sizes;
}

/// Cuts a denoiser as pictures do: what depends on the prompt alone, then what depends on the timestep too.
inline BenchParts cut(BenchModel& m) {
  BenchParts parts;
  parts.step = std::move(m.graph);
  m.graph = std::make_unique<Graph>();
  for (bool prompt : {true, false}) {
    std::set<std::string> steady;
    for (Value input : parts.step->inputs())
      if (prompt ? input_name(input) == "context" : input_name(input) != "x") steady.insert(input_name(input));
    Hoisted hoisted = hoist(*parts.step, steady, prompt ? "prompt" : "timestep");
    parts.step = std::move(hoisted.step);
    if (hoisted.prelude->outputs().empty()) continue;
    if (prompt)
      for (const Output& output : hoisted.prelude->outputs()) parts.kept.insert(output.name);
    parts.preludes.push_back(std::move(hoisted.prelude));
  }
  return parts;
}

/// Random numbers for every input that `inputs` lacks.
inline void add_random_inputs(const Graph& graph, const Bindings& sizes, std::map<std::string, Tensor>& inputs) {
  uint32_t state = 7;
  for (Value input : graph.inputs()) {
    if (inputs.contains(input_name(input))) continue;
    std::vector<int64_t> shape;
    for (const Dim& dim : input.shape()) shape.push_back(dim.value(sizes));
    Tensor t(DType::f32, shape);
    for (float& x : t.f32()) state = state * 1664525 + 1013904223, x = float(int32_t(state)) * 0x1p-31f;
    if (input_name(input) == "timesteps") std::fill(t.f32().begin(), t.f32().end(), 500.f);
    inputs[input_name(input)] = t;
  }
}

}  // namespace sinter
