#pragma once
#include <vector>

#include "models/prediction.h"
#include "tensor/tensor.h"

namespace sinter {

/// How a model was trained to be sampled: its table of noise levels, what time means to the network, and how input and output are
/// scaled around it. Latents are in the model's units. sigmas_golden.cpp compares all of it with the reference.
class ModelSampling {
 public:
  /// Stable Diffusion: 1000 levels, time is the index of a level. With `zero_terminal_snr` the table is moved so that the last
  /// level has (almost) no signal.
  static ModelSampling stable_diffusion(Prediction prediction, bool zero_terminal_snr = false);
  /// SD3, Wan: 1000 levels shift*t/(1+(shift-1)*t); time is sigma*multiplier.
  static ModelSampling discrete_flow(double shift, double multiplier = 1000);
  /// FLUX: 10000 levels e^shift/(e^shift+1/t-1); time is sigma.
  static ModelSampling flux(double shift = 1.15);

  bool is_flow() const { return prediction_ == Prediction::Flow; }
  /// The noise levels, rising.
  const std::vector<float>& sigmas() const { return sigmas_; }
  float sigma_min() const { return sigmas_.front(); }
  float sigma_max() const { return sigmas_.back(); }

  /// What the network is told at this noise level, and back.
  float timestep(float sigma) const;
  float sigma(float timestep) const;
  /// The noise level after this share (0 to 1) of the way from noise to picture. At 0 and below a bound that no schedule exceeds.
  double percent_to_sigma(double percent) const;

  /// A latent with noise at level `sigma`. `from_pure_noise` is for a start at the top of a table, where the noise makes up for
  /// the signal that x would have there.
  Tensor add_noise(float sigma, const Tensor& noise, const Tensor& latent, bool from_pure_noise = false) const;
  /// Undoes what add_noise does to the latent's size, at the level where sampling ended.
  Tensor remove_noise_scale(float sigma, const Tensor& x) const;
  /// What the network sees of x.
  Tensor network_input(const Tensor& x, float sigma) const;
  /// The picture that the network's output for x stands for.
  Tensor denoised(const Tensor& x, const Tensor& output, float sigma) const;

 private:
  enum class Time { Index, Ratio, Exponential };

  Prediction prediction_ = Prediction::Epsilon;
  Time time_ = Time::Index;
  double shift_ = 1;
  double multiplier_ = 1;
  std::vector<float> sigmas_, log_sigmas_;
};

}  // namespace sinter
