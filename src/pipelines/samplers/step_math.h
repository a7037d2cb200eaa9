#pragma once
#include <vector>

#include "pipelines/samplers/sampler.h"

/// Scalars that several samplers share. All in float, rounding where the reference rounds.
namespace sinter {

/// The derivative of x with respect to sigma.
inline Tensor slope(const Tensor& x, float sigma, const Tensor& denoised) { return (x - denoised) / sigma; }

/// A stochastic step to `to`: go down to `down` and add noise of size `up` (Karras et al. 2022, with k-diffusion's eta).
struct AncestralStep {
  float down, up;
};
AncestralStep ancestral_step(float from, float to, float eta = 1);

/// The same for flow models, where adding noise must also shrink the picture: x becomes keep*x + noise_size*noise.
struct FlowAncestralStep {
  float down, keep, noise_size;
};
FlowAncestralStep flow_ancestral_step(float from, float to, float eta = 1);

/// Half way between two levels on a logarithmic scale.
float log_middle(float a, float b);

/// Time as half the logarithm of the signal-to-noise ratio: log(alpha/sigma), with alpha 1 or, for flow models, 1-sigma.
class SnrTime {
 public:
  explicit SnrTime(const ModelSampling& model) : flow_(model.is_flow()) {}
  float of_sigma(float sigma) const;
  float to_sigma(float lambda) const;

 private:
  bool flow_;
};

/// The run's sigmas, with the first one moved a little where a flow model starts from no signal at all: its logarithm is finite.
std::vector<float> sigmas_with_signal(const SamplerRun& run);

}  // namespace sinter
