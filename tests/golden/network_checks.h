#pragma once
#include "golden/forward.h"
#include "models/weights.h"

namespace sinter::golden {

/// Gives a runner the weights of a graph, under the shapes that the graph declares. Both must outlive it.
inline std::function<Tensor(const std::string&)> loader(const Graph& graph, const Weights& weights) {
  auto shapes = std::make_shared<std::map<std::string, std::vector<int64_t>>>();
  for (const WeightUse& use : weights_of(graph))
    for (const Dim& dim : use.type.shape) (*shapes)[use.name].push_back(dim.constant());
  return [shapes, &weights](const std::string& name) { return weights.load(name, shapes->at(name)); };
}

// Each runs the cases of one kind in the file of `check`, with the networks of the named file in the folder `checkpoints`.

void check_unet(const ForwardCheck& check, const std::string& checkpoint);  ///< unet/*
/// denoise/: the same network with what stands between it and a sampler.
void check_denoise(const ForwardCheck& check, const std::string& checkpoint);
void check_vae(const ForwardCheck& check, const std::string& checkpoint);  ///< vae_encode/*, vae_decode/*

}  // namespace sinter::golden
