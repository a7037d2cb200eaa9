#pragma once
#include <map>
#include <string>
#include <vector>

#include "models/clip.h"
#include "models/scope.h"
#include "models/unet.h"
#include "models/vae_image.h"

namespace sinter {

using Shapes = std::map<std::string, std::vector<int64_t>>;

inline void add(Shapes& shapes, const std::string& prefix, const Graph& graph) {
  for (const WeightUse& use : weights_of(graph)) {
    auto& shape = shapes[prefix + use.name];
    for (const Dim& dim : use.type.shape) shape.push_back(dim.constant());
  }
}

/// SD1.5 with half the channels in U-Net and autoencoder: 0.7 GB of zeros. The tokenizer is the tiny model's.
inline Shapes half_sd15() {
  Shapes shapes;
  UnetConfig unet = sd15_unet_config();
  unet.channels /= 2;
  for (auto& level : unet.levels) level.channels /= 2;
  VaeConfig vae = sd_vae_config();
  for (auto& channels : vae.channels) channels /= 2;
  Dim batch = Dim::symbol("batch"), height = Dim::symbol("height"), width = Dim::symbol("width");
  Graph denoiser, decoder, encoder, text;
  build_unet(denoiser, unet, {batch, height, width, Dim::symbol("text")});
  build_vae_decoder(decoder, vae, batch, height, width);
  build_vae_encoder(encoder, vae, batch, height, width);
  build_clip(text, clip_l_config(), batch, {{ClipOutput::pooled, "pooled"}});
  add(shapes, "model.diffusion_model.", denoiser);
  for (const Graph* half : {&decoder, &encoder}) {
    Shapes part;
    add(part, "first_stage_model.", *half);
    shapes.merge(part);
  }
  add(shapes, "cond_stage_model.transformer.", text);
  return shapes;
}

/// A LoRA of rank 16 for all linear layers of attention in the U-Net.
inline Shapes attention_lora(const Shapes& model) {
  constexpr int64_t kRank = 16;
  const std::string prefix = "model.", end = ".weight";
  Shapes lora;
  for (const auto& [name, shape] : model) {
    if (name.find("transformer_blocks") == name.npos || !name.ends_with(end) || shape.size() != 2) continue;
    std::string module = name.substr(prefix.size(), name.size() - prefix.size() - end.size());
    lora[module + ".lora_up.weight"] = {shape[0], kRank};
    lora[module + ".lora_down.weight"] = {kRank, shape[1]};
  }
  return lora;
}

}  // namespace sinter
