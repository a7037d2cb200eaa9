#pragma once
#include <vector>

#include "models/scope.h"
#include "models/weights.h"

namespace sinter {

/// The U-Net of Stable Diffusion 1, 2 and XL, and of models with their names and other sizes.
struct UnetConfig {
  int64_t in_channels = 4;  ///< 9 for inpainting (latent, mask, masked latent), 8 for editing (latent, picture)
  int64_t out_channels = 4;
  int64_t channels = 320;       ///< of the first convolution
  int64_t context_width = 768;  ///< 0 where nothing attends to text
  int64_t vector_width = 0;     ///< of `y`, the pooled text and sizes; 0: none
  int64_t heads = 8;            ///< of every attention; 0: as many as `head_size` gives
  int64_t head_size = 0;
  bool linear_projections = false;  ///< around transformers; else 1x1 convolutions

  /// Resolutions from the finest to the coarsest. A depth is the number of transformer blocks after a residual block; 0: no
  /// transformer there.
  struct Level {
    int64_t channels = 0;
    std::vector<int64_t> down_depths;
    std::vector<int64_t> up_depths;  ///< one more than down_depths
    bool operator==(const Level&) const = default;
  };
  std::vector<Level> levels;
  /// Transformer blocks in the middle; -1: a residual block alone, -2: no middle.
  int64_t middle_depth = 1;

  bool operator==(const UnetConfig&) const = default;
};

UnetConfig sd15_unet_config();
UnetConfig sdxl_unet_config();

/// Reads names and shapes. Head counts cannot be seen there: 8 heads as in Stable Diffusion 1, or heads of 64 channels as in
/// later ones, unless `tiny_config` says otherwise. Code::Corrupt, Code::NotFound for weights that are no such network.
UnetConfig detect_unet(const Weights& weights);

/// True where the weights are of the first generation: 8 heads of any size, text of CLIP-L.
bool is_first_generation_unet(const Weights& weights);

/// Constants or symbols. Height and width are those of the latent and need not be multiples of anything.
struct UnetSizes {
  Dim batch, height, width, context_tokens;
};

/// Inputs, all f32: `x` [batch, in_channels, height, width], `timesteps` [batch] (0..999, may be fractional),
/// `context` [batch, context_tokens, context_width], with vector_width `y` [batch, vector_width].
/// Output f32: `out` [batch, out_channels, height, width]. Weights are named as in single-file checkpoints, without prefix.
void build_unet(Graph& graph, const UnetConfig& config, const UnetSizes& sizes, const BuildOptions& options = {});

}  // namespace sinter
