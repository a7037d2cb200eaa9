#include <cmath>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

/// Karras et al. 2022, algorithm 1 without churn: follow the derivative from each sigma to the next.
Tensor run_euler(SamplerRun& run, Tensor x) {
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, x, denoised, sigma);
    x = x + slope(x, sigma, denoised) * (next - sigma);
  }
  return x;
}

Tensor ancestral_move(SamplerRun& run, const Tensor& x, const Tensor& denoised, float sigma, float next) {
  if (run.model.is_flow()) {
    auto [down, keep, noise_size] = flow_ancestral_step(sigma, next);
    float ratio = down / sigma;
    return (x * ratio + denoised * (1 - ratio)) * keep + run.noise(sigma, next) * noise_size;
  }
  auto [down, up] = ancestral_step(sigma, next);
  if (down == 0) return denoised;  // also where a huge sigma rounds it to 0; the reference adds no noise then
  return x + slope(x, sigma, denoised) * (down - sigma) + run.noise(sigma, next) * up;
}

Tensor run_euler_ancestral(SamplerRun& run, Tensor x) {
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, x, denoised, sigma);
    x = next == 0 ? denoised : ancestral_move(run, x, denoised, sigma, next);
  }
  return x;
}

/// CFG++ (Chung et al. 2024): the picture is the guided one, the noise that is put back is the unconditional model's.
Tensor run_cfg_pp(SamplerRun& run, Tensor x, float eta) {
  SnrTime time(run.model);
  auto alpha = [&](float sigma) { return sigma * std::exp(time.of_sigma(sigma)); };
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    auto [denoised, unconditional] = run.guided(x, sigma);
    run.on_step(i, x, denoised, sigma);
    if (next == 0) {
      x = denoised;
      continue;
    }
    float alpha_now = alpha(sigma), alpha_next = alpha(next);
    auto [down, up] = ancestral_step(sigma / alpha_now, next / alpha_next, eta);
    x = denoised * alpha_next + slope(x, sigma, unconditional * alpha_now) * (alpha_next * down);
    if (eta > 0) x = x + run.noise(sigma, next) * alpha_next * up;
  }
  return x;
}

}  // namespace

const SamplerDef euler_sampler = {
    .name = "euler",
    .summary = "First order, one model call a step, deterministic.",
    .run = run_euler,
};

const SamplerDef ddim_sampler = {
    .name = "ddim",
    .summary = "The same steps as euler; masked sampling hides the kept part under noise of its own.",
    .run = run_euler,
    .masks_with_other_noise = true,
};

const SamplerDef euler_ancestral_sampler = {
    .name = "euler_ancestral",
    .summary = "euler with fresh noise at every step.",
    .run = run_euler_ancestral,
};

const SamplerDef euler_cfg_pp_sampler = {
    .name = "euler_cfg_pp",
    .summary = "euler with CFG++ guidance; takes cfg scales around 1.",
    .run = [](SamplerRun& run, Tensor x) { return run_cfg_pp(run, std::move(x), 0); },
    .needs_unconditional = true,
};

const SamplerDef euler_ancestral_cfg_pp_sampler = {
    .name = "euler_ancestral_cfg_pp",
    .summary = "euler_ancestral with CFG++ guidance; takes cfg scales around 1.",
    .run = [](SamplerRun& run, Tensor x) { return run_cfg_pp(run, std::move(x), 1); },
    .needs_unconditional = true,
};

}  // namespace sinter
