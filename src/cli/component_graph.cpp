#include "cli/component_graph.h"

#include <array>

#include "models/clip.h"
#include "models/flux.h"
#include "models/t5.h"
#include "models/unet.h"
#include "models/vae_image.h"

namespace sinter {
namespace {

void build_denoiser(Graph& graph, const Family* family, const Weights& weights) {
  Dim batch = Dim::symbol("batch"), height = Dim::symbol("height"), width = Dim::symbol("width"), text = Dim::symbol("text");
  SINTER_ASSERT(family);
  if (family->prediction == Prediction::Flow)
    build_flux(graph, detect_flux(weights), {batch, height, width, text});
  else
    build_unet(graph, detect_unet(weights), {batch, height, width, text});
}

void build_autoencoder(Graph& graph, bool encoder, const Weights& weights) {
  Dim batch = Dim::symbol("batch"), height = Dim::symbol("height"), width = Dim::symbol("width");
  VaeConfig config = detect_vae(weights);
  if (encoder && !config.has_encoder) fail(Code::NotFound, "{}: the autoencoder has no encoder", weights.path());
  if (!encoder && !config.has_decoder) fail(Code::NotFound, "{}: the autoencoder has no decoder", weights.path());
  if (encoder)
    build_vae_encoder(graph, config, batch, Dim(config.scale()) * height, Dim(config.scale()) * width);
  else
    build_vae_decoder(graph, config, batch, height, width);
}

/// With its projection where the file has one.
void build_text_encoder(Graph& graph, Component component, const Weights& weights) {
  Dim batch = Dim::symbol("batch");
  if (component == Component::T5) return build_t5(graph, detect_t5(weights), batch, Dim::symbol("text"));
  std::vector<ClipOutput> outputs = {{ClipOutput::hidden, "hidden"}, {ClipOutput::pooled, "pooled"}};
  if (weights.has("text_projection.weight")) outputs[1] = {ClipOutput::projected, "pooled"};
  build_clip(graph, detect_clip(weights, component == Component::ClipG ? ClipKind::g : ClipKind::l), batch, outputs);
}

}  // namespace

std::span<const ComponentGraph> component_graphs() {
  static constexpr std::array<ComponentGraph, 6> kGraphs = {{{"denoiser", Component::Denoiser},
                                                             {"vae-decoder", Component::Vae},
                                                             {"vae-encoder", Component::Vae, true},
                                                             {"clip-l", Component::ClipL},
                                                             {"clip-g", Component::ClipG},
                                                             {"t5", Component::T5}}};
  return kGraphs;
}

std::unique_ptr<Graph> build_component_graph(const ComponentGraph& which, const Family* family, const Weights& weights) {
  auto graph = std::make_unique<Graph>();
  if (which.component == Component::Denoiser)
    build_denoiser(*graph, family, weights);
  else if (which.component == Component::Vae)
    build_autoencoder(*graph, which.encoder, weights);
  else
    build_text_encoder(*graph, which.component, weights);
  return graph;
}

}  // namespace sinter
