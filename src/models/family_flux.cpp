#include "models/family.h"

namespace sinter {
namespace {

constexpr LatentFormat kLatent = {.channels = 16, .scale = 0.3611, .shift = 0.1159};
constexpr int64_t kPatchPixels = 4;

/// Plain text to picture: variants for filling and control see more channels than the latent has.
bool is_flux(const Weights& w) {
  return w.has("double_blocks.0.img_attn.norm.key_norm.scale") && w.has("img_in.weight") &&
         w.size("img_in.weight", 1) == kLatent.channels * kPatchPixels;
}

bool has_guidance(const Weights& w) { return w.has("guidance_in.in_layer.weight"); }

}  // namespace

const Family flux1_dev_family = {
    .name = "flux1-dev",
    .summary = "FLUX.1 dev: transformer of 12 billion parameters told its guidance, CLIP-L and T5 text.",
    .detect = [](const Weights& w) { return is_flux(w) && has_guidance(w); },
    .latent = kLatent,
    .prediction = Prediction::Flow,
    .text_encoders = {Component::ClipL, Component::T5},
    .defaults = {.scheduler = "simple", .steps = 20, .cfg = 1, .width = 1024, .height = 1024, .guidance = 3.5, .shift = 1.15},
};

const Family flux1_schnell_family = {
    .name = "flux1-schnell",
    .summary = "FLUX.1 schnell: as dev, distilled to 1 to 4 steps and without guidance.",
    .detect = [](const Weights& w) { return is_flux(w) && !has_guidance(w); },
    .latent = kLatent,
    .prediction = Prediction::Flow,
    .text_encoders = {Component::ClipL, Component::T5},
    .defaults = {.scheduler = "simple", .steps = 4, .cfg = 1, .width = 1024, .height = 1024, .shift = 1},
};

}  // namespace sinter
