#pragma once

namespace sinter {

/// What the network's output means.
enum class Prediction {
  Epsilon,   ///< the noise in x = latent + sigma*noise
  Velocity,  ///< v of Salimans and Ho 2022
  Flow,      ///< noise - latent, with x = (1-sigma)*latent + sigma*noise
};

}  // namespace sinter
