#include <cmath>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

/// Ho et al. 2020, equations 7 and 11, with the latent scaled to variance 1: mean of the posterior, then its noise.
Tensor posterior_step(SamplerRun& run, const Tensor& x, const Tensor& noise, float sigma, float next) {
  float signal = 1 / (sigma * sigma + 1), signal_next = 1 / (next * next + 1), alpha = signal / signal_next;
  Tensor mean = (x - noise * (1 - alpha) / std::sqrt(1 - signal)) * std::sqrt(1 / alpha);
  if (next == 0) return mean;
  return mean + run.noise(sigma, next) * std::sqrt((1 - alpha) * (1 - signal_next) / (1 - signal));
}

}  // namespace

const SamplerDef ddpm_sampler = {
    .name = "ddpm",
    .summary = "The original stochastic sampler, first order, one model call a step.",
    .run =
        [](SamplerRun& run, Tensor x) {
          for (int i = 0; i < run.steps(); ++i) {
            float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
            Tensor denoised = run.denoise(x, sigma);
            run.on_step(i, x, denoised, sigma);
            x = posterior_step(run, x / std::sqrt(1 + sigma * sigma), slope(x, sigma, denoised), sigma, next);
            if (next != 0) x = x * std::sqrt(1 + next * next);
          }
          return x;
        },
};

}  // namespace sinter
