#include <optional>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

/// Permenter and Yuan 2024, "Interpreting and Improving Diffusion Models from an Optimization Perspective": euler with the slope
/// pushed on by its change since the last step.
Tensor run_estimation(SamplerRun& run, Tensor x, bool cfg_pp) {
  constexpr float kGamma = 2;
  std::optional<Tensor> last;
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    Guided guided = run.guided(x, sigma);
    run.on_step(i, x, guided.denoised, sigma);
    Tensor now = slope(x, sigma, cfg_pp ? guided.unconditional : guided.denoised);
    if (next == 0) {
      x = guided.denoised;
    } else {
      x = cfg_pp ? guided.denoised + now * next : x + now * (next - sigma);
      if (last) x = x + (now - *last) * (kGamma - 1) * (next - sigma);
    }
    last = now;
  }
  return x;
}

}  // namespace

const SamplerDef gradient_estimation_sampler = {
    .name = "gradient_estimation",
    .summary = "euler with an extrapolated slope, one model call a step, deterministic.",
    .run = [](SamplerRun& run, Tensor x) { return run_estimation(run, std::move(x), false); },
};

const SamplerDef gradient_estimation_cfg_pp_sampler = {
    .name = "gradient_estimation_cfg_pp",
    .summary = "gradient_estimation with CFG++ guidance; takes cfg scales around 1.",
    .run = [](SamplerRun& run, Tensor x) { return run_estimation(run, std::move(x), true); },
    .needs_unconditional = true,
};

}  // namespace sinter
