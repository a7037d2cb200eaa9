#pragma once
#include <vector>

#include "models/scope.h"
#include "models/weights.h"

namespace sinter {

/// The autoencoder for pictures of Stable Diffusion and FLUX: convolutions, one attention in the middle.
struct VaeConfig {
  int64_t picture_channels = 3;
  int64_t latent_channels = 4;
  int64_t residual_blocks = 2;    ///< per level of the encoder; the decoder has one more
  std::vector<int64_t> channels;  ///< of each level, the finest first
  bool quant_conv = false;        ///< a 1x1 convolution after the encoder
  bool post_quant_conv = false;   ///< a 1x1 convolution before the decoder
  bool has_encoder = true, has_decoder = true;

  /// Pixels along one side of a latent's element.
  int64_t scale() const { return int64_t(1) << (channels.size() - 1); }
  bool operator==(const VaeConfig&) const = default;
};

VaeConfig sd_vae_config();    ///< of SD1.5 and SDXL
VaeConfig flux_vae_config();  ///< 16 latent channels, no convolutions between encoder and decoder

/// Reads names and shapes of weights in single-file names without prefix. Code::Corrupt, Code::NotFound.
VaeConfig detect_vae(const Weights& weights);

/// Input f32 `x` [batch, picture_channels, height, width] in -1..1; sizes are multiples of scale().
/// Outputs f32 `mean` and `logvar` [batch, latent_channels, height/scale, width/scale], in the autoencoder's own units.
void build_vae_encoder(Graph& graph, const VaeConfig& config, Dim batch, Dim height, Dim width, const BuildOptions& options = {});

/// Input f32 `z` [batch, latent_channels, height, width] in the autoencoder's own units.
/// Output f32 `out` [batch, picture_channels, scale*height, scale*width], about -1..1, not clamped.
void build_vae_decoder(Graph& graph, const VaeConfig& config, Dim batch, Dim height, Dim width, const BuildOptions& options = {});

}  // namespace sinter
