#pragma once
#include "models/weights.h"

namespace sinter {

// The layouts in which networks are published, each seen under the canonical names: those of the first single-file checkpoints
// for U-Net, autoencoder and FLUX, those of Hugging Face for text encoders. A checkpoint passed here holds one network, its
// prefix removed. Tensors that no rule knows are left out; check_weights() finds what is missing.

/// Either layout, told apart by the names.
Weights denoiser_weights(const Checkpoint& network);
Weights vae_weights(const Checkpoint& network);
/// OpenCLIP's or Hugging Face's layout, with or without "text_model.".
Weights clip_weights(const Checkpoint& network);
Weights t5_weights(const Checkpoint& network);

}  // namespace sinter
