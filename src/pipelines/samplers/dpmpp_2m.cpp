#include <cmath>
#include <optional>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

float time_of(float sigma) { return -std::log(sigma); }

/// DPM-Solver++(2M) of Lu et al. 2022: the picture at the middle of the step is extrapolated from this one and the last.
Tensor run_2m(SamplerRun& run, Tensor x) {
  std::optional<Tensor> last;
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma), picture = denoised;
    run.on_step(i, x, denoised, sigma);
    float t = time_of(sigma), t_next = time_of(next), h = t_next - t;
    if (last && next != 0) {
      float ratio = (t - time_of(run.sigmas[size_t(i) - 1])) / h;
      picture = denoised * (1 + 1 / (2 * ratio)) - *last * (1 / (2 * ratio));
    }
    x = x * (std::exp(-t_next) / std::exp(-t)) - picture * std::expm1(-h);
    last = denoised;
  }
  return x;
}

/// The same with CFG++: guided picture, unconditional noise, and a correction from the unconditional pictures.
Tensor run_2m_cfg_pp(SamplerRun& run, Tensor x) {
  std::optional<Tensor> last;
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    auto [denoised, unconditional] = run.guided(x, sigma);
    run.on_step(i, x, denoised, sigma);
    float t = time_of(sigma), h = time_of(next) - t, kept = std::exp(-h);
    Tensor change = unconditional * -kept;
    if (last && next != 0) {
      float ratio = (t - time_of(run.sigmas[size_t(i) - 1])) / h;
      change = change - (denoised - *last) * (std::expm1(-h) * (1 / (2 * ratio)));
    }
    x = denoised + change + x * kept;
    last = unconditional;
  }
  return x;
}

}  // namespace

const SamplerDef dpmpp_2m_sampler = {
    .name = "dpmpp_2m",
    .summary = "Second order from the last step's picture, one model call a step, deterministic.",
    .run = run_2m,
};

const SamplerDef dpmpp_2m_cfg_pp_sampler = {
    .name = "dpmpp_2m_cfg_pp",
    .summary = "dpmpp_2m with CFG++ guidance; takes cfg scales around 1.",
    .run = run_2m_cfg_pp,
    .needs_unconditional = true,
};

}  // namespace sinter
