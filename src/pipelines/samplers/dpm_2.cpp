#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

Tensor euler_move(const Tensor& x, const Tensor& denoised, float sigma, float end) {
  return x + slope(x, sigma, denoised) * (end - sigma);
}

/// From sigma to `end` with the slope half way between them on a logarithmic scale (Karras et al. 2022, algorithm 2).
Tensor middle_slope_move(SamplerRun& run, const Tensor& x, const Tensor& denoised, float sigma, float end) {
  float middle = log_middle(sigma, end);
  Tensor moved = euler_move(x, denoised, sigma, middle);
  return x + slope(moved, middle, run.denoise(moved, middle)) * (end - sigma);
}

Tensor ancestral_move(SamplerRun& run, const Tensor& x, const Tensor& denoised, float sigma, float next) {
  if (run.model.is_flow()) {
    auto [down, keep, noise_size] = flow_ancestral_step(sigma, next);
    return middle_slope_move(run, x, denoised, sigma, down) * keep + run.noise(sigma, next) * noise_size;
  }
  auto [down, up] = ancestral_step(sigma, next);
  if (down == 0) return euler_move(x, denoised, sigma, 0);  // a huge sigma rounds it to 0; the reference adds no noise then
  return middle_slope_move(run, x, denoised, sigma, down) + run.noise(sigma, next) * up;
}

template <class Move>
Tensor run_steps(SamplerRun& run, Tensor x, Move&& move) {
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, x, denoised, sigma);
    x = next == 0 ? euler_move(x, denoised, sigma, next) : move(run, x, denoised, sigma, next);
  }
  return x;
}

}  // namespace

const SamplerDef dpm_2_sampler = {
    .name = "dpm_2",
    .summary = "Second order with a model call in the middle of the step, deterministic.",
    .run = [](SamplerRun& run, Tensor x) { return run_steps(run, std::move(x), middle_slope_move); },
    .drops_penultimate_sigma = true,
};

const SamplerDef dpm_2_ancestral_sampler = {
    .name = "dpm_2_ancestral",
    .summary = "dpm_2 with fresh noise at every step.",
    .run = [](SamplerRun& run, Tensor x) { return run_steps(run, std::move(x), ancestral_move); },
    .drops_penultimate_sigma = true,
};

}  // namespace sinter
