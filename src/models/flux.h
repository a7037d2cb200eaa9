#pragma once
#include <array>

#include "models/scope.h"
#include "models/weights.h"

namespace sinter {

/// FLUX.1: a transformer of blocks with separate weights for text and image, then blocks with common weights.
struct FluxConfig {
  int64_t in_channels = 16;  ///< of the latent; 96 for fill, 32 for canny and depth
  int64_t out_channels = 16;
  int64_t width = 3072;
  int64_t head_size = 128;
  int64_t mlp = 12288;
  int64_t context_width = 4096;
  int64_t vector_width = 768;
  int64_t double_blocks = 19;
  int64_t single_blocks = 38;
  bool guidance = true;                     ///< dev has it, schnell has not
  std::array<int64_t, 3> axes{16, 56, 56};  ///< parts of a head that the position's three numbers rotate
  double theta = 10000;
  bool operator==(const FluxConfig&) const = default;
  int64_t heads() const { return width / head_size; }
};
/// From weights under the names of the original single file ("double_blocks.0.img_attn.qkv.weight").
FluxConfig detect_flux(const Weights& weights);

/// Constants or symbols; height and width are those of the latent.
struct FluxSizes {
  Dim batch, height, width, text;
};
/// Inputs, all f32: x [batch, in_channels, height, width] (latents, any size: odd sizes wrap around to even ones and are cropped
/// again), timestep [batch] (0 to 1), context [batch, text, context_width], y [batch, vector_width] and, with guidance, guidance
/// [batch]. Output f32: out [batch, out_channels, height, width].
void build_flux(Graph& graph, const FluxConfig& config, const FluxSizes& sizes, const BuildOptions& options = {});

/// By how much each pair of a head is turned at each position: f32 [1, positions, 1, head_size] each. The cosine stands at both
/// elements of its pair; the sine too, negative at the first, so that a head turns into head * cos + swap_pairs(head) * sin.
struct Rope {
  Value cos, sin;
};
/// From the three numbers of each position, f32 [positions] each.
Rope rope_table(const FluxConfig& config, std::array<Value, 3> positions);

}  // namespace sinter
