#include <cmath>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

/// Exponential-integrator step in the time -log sigma, with the picture taken as constant.
Tensor exponential_move(const Tensor& x, const Tensor& denoised, float sigma, float to, float h) {
  return x * (to / sigma) - denoised * std::expm1(-h);
}

float time_of(float sigma) { return -std::log(sigma); }

/// DPM-Solver++(2S) of Lu et al. 2022 from sigma to `down`, with the second model call half way. CFG++ adds the effect of the
/// guidance to the noisy latent as well.
Tensor second_order_move(SamplerRun& run, const Tensor& x, const Guided& first, float sigma, float down, bool cfg_pp) {
  float t = time_of(sigma), h = time_of(down) - t, half = 0.5f * h;
  float inside = std::exp(-(t + half));
  auto shifted = [&](const Guided& guided) { return cfg_pp ? x + (first.denoised - guided.unconditional) : x; };
  float scale = std::exp(-t);
  Tensor middle = exponential_move(shifted(first), first.denoised, scale, inside, half);
  Guided second = run.guided(middle, inside);
  return exponential_move(shifted(second), second.denoised, scale, std::exp(-time_of(down)), h);
}

Tensor run_ancestral(SamplerRun& run, Tensor x, bool cfg_pp) {
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    Guided first = run.guided(x, sigma);
    run.on_step(i, x, first.denoised, sigma);
    auto [down, up] = ancestral_step(sigma, next);
    if (down == 0)
      x = cfg_pp ? first.denoised : x + slope(x, sigma, first.denoised) * (down - sigma);
    else
      x = second_order_move(run, x, first, sigma, down, cfg_pp);
    if (next > 0) x = x + run.noise(sigma, next) * up;
  }
  return x;
}

/// The middle of a flow model's step in half log SNR; from pure noise, where that is infinite, a level just below 1.
float flow_middle(float sigma, float down) {
  if (sigma == 1) return 0.9999f;
  auto time = [](float s) { return std::log((1 - s) / s); };
  float from = time(sigma), h = time(down) - from;
  return 1 / (std::exp(from + 0.5f * h) + 1);
}

Tensor run_flow_ancestral(SamplerRun& run, Tensor x) {
  auto toward = [](const Tensor& x, const Tensor& denoised, float ratio) { return x * ratio + denoised * (1 - ratio); };
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, x, denoised, sigma);
    if (next == 0) {
      x = x + slope(x, sigma, denoised) * (next - sigma);
      continue;
    }
    auto [down, keep, noise_size] = flow_ancestral_step(sigma, next);
    float inside = flow_middle(sigma, down);
    Tensor second = run.denoise(toward(x, denoised, inside / sigma), inside);
    x = toward(x, second, down / sigma) * keep + run.noise(sigma, next) * noise_size;
  }
  return x;
}

}  // namespace

const SamplerDef dpmpp_2s_ancestral_sampler = {
    .name = "dpmpp_2s_ancestral",
    .summary = "Second order, two model calls a step, fresh noise at every step.",
    .run =
        [](SamplerRun& run, Tensor x) {
          return run.model.is_flow() ? run_flow_ancestral(run, std::move(x)) : run_ancestral(run, std::move(x), false);
        },
};

const SamplerDef dpmpp_2s_ancestral_cfg_pp_sampler = {
    .name = "dpmpp_2s_ancestral_cfg_pp",
    .summary = "dpmpp_2s_ancestral with CFG++ guidance; takes cfg scales around 1.",
    .run = [](SamplerRun& run, Tensor x) { return run_ancestral(run, std::move(x), true); },
    .needs_unconditional = true,
};

}  // namespace sinter
