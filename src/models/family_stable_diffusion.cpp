#include "models/family.h"
#include "models/unet.h"

namespace sinter {
namespace {

bool is_unet(const Weights& w) { return w.has("input_blocks.0.0.weight"); }

/// XL has no transformer at its finest level; the refiner has, below, a wider text and other channels.
bool is_sdxl(const Weights& w) {
  constexpr int64_t kRefinerChannels = 384;
  return is_unet(w) && w.has("label_emb.0.0.weight") && !w.has("input_blocks.1.1.norm.weight") &&
         w.size("input_blocks.0.0.weight", 0) != kRefinerChannels;
}

}  // namespace

const Family sd15_family = {
    .name = "sd15",
    .summary = "Stable Diffusion 1.x: U-Net of 860 million parameters, CLIP-L text, pictures of 512 pixels.",
    .detect = [](const Weights& w) { return is_unet(w) && is_first_generation_unet(w); },
    .latent = {.channels = 4, .scale = 0.18215},
    .prediction = Prediction::Epsilon,
    .text_encoders = {Component::ClipL},
    .defaults = {.width = 512, .height = 512},
};

const Family sdxl_family = {
    .name = "sdxl",
    .summary = "Stable Diffusion XL: U-Net of 2.6 billion parameters, CLIP-L and CLIP-G text, pictures of 1024 pixels.",
    .detect = is_sdxl,
    .latent = {.channels = 4, .scale = 0.13025},
    .prediction = Prediction::Epsilon,
    .text_encoders = {Component::ClipL, Component::ClipG},
    .defaults = {.width = 1024, .height = 1024},
};

}  // namespace sinter
