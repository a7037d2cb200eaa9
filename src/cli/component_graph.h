#pragma once
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/graph.h"
#include "models/checkpoint_names.h"

namespace sinter {

/// A graph that a model file can be asked for: "denoiser", "vae-decoder", "vae-encoder", "clip-l", "clip-g", "t5".
struct ComponentGraph {
  std::string_view name;
  Component component;
  bool encoder = false;  ///< of the autoencoder
};
std::span<const ComponentGraph> component_graphs();

/// Builds it with symbolic sizes, as the weights' names and shapes ask for. `family` is needed for a denoiser only.
std::unique_ptr<Graph> build_component_graph(const ComponentGraph& which, const Family* family, const Weights& weights);

}  // namespace sinter
