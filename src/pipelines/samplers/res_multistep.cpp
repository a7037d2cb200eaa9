#include <cmath>
#include <optional>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

float time_of(float sigma) { return -std::log(sigma); }
float finite_or_zero(float value) { return std::isnan(value) ? 0 : value; }

/// Zhang et al. 2023, "Improved Order Analysis and Design of Exponential Integrator": second order from the last picture.
Tensor run_res(SamplerRun& run, Tensor x, float eta, bool cfg_pp) {
  std::optional<Tensor> last;
  float last_down = 0;
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    Guided guided = run.guided(x, sigma);
    run.on_step(i, x, guided.denoised, sigma);
    const Tensor& anchor = cfg_pp ? guided.unconditional : guided.denoised;  // where the noise is measured from
    auto [down, up] = ancestral_step(sigma, next, eta);
    if (down == 0 || !last) {
      x = cfg_pp ? guided.denoised + slope(x, sigma, anchor) * down : x + slope(x, sigma, anchor) * (down - sigma);
    } else {
      float h = time_of(down) - time_of(sigma);
      float c2 = (time_of(run.sigmas[size_t(i) - 1]) - time_of(last_down)) / h;
      float phi1 = std::expm1(-h) / -h, phi2 = (phi1 - 1) / -h;
      float b1 = finite_or_zero(phi1 - phi2 / c2), b2 = finite_or_zero(phi2 / c2);
      if (cfg_pp) x = x + (guided.denoised - guided.unconditional);
      x = x * std::exp(-h) + (anchor * b1 + *last * b2) * h;
    }
    if (next > 0) x = x + run.noise(sigma, next) * up;
    last = anchor;
    last_down = down;
  }
  return x;
}

}  // namespace

const SamplerDef res_multistep_sampler = {
    .name = "res_multistep",
    .summary = "Second-order exponential integrator from the last picture, one model call a step, deterministic.",
    .run = [](SamplerRun& run, Tensor x) { return run_res(run, std::move(x), 0, false); },
};

const SamplerDef res_multistep_cfg_pp_sampler = {
    .name = "res_multistep_cfg_pp",
    .summary = "res_multistep with CFG++ guidance; takes cfg scales around 1.",
    .run = [](SamplerRun& run, Tensor x) { return run_res(run, std::move(x), 0, true); },
    .needs_unconditional = true,
};

const SamplerDef res_multistep_ancestral_sampler = {
    .name = "res_multistep_ancestral",
    .summary = "res_multistep with fresh noise at every step.",
    .run = [](SamplerRun& run, Tensor x) { return run_res(run, std::move(x), 1, false); },
};

const SamplerDef res_multistep_ancestral_cfg_pp_sampler = {
    .name = "res_multistep_ancestral_cfg_pp",
    .summary = "res_multistep_ancestral with CFG++ guidance; takes cfg scales around 1.",
    .run = [](SamplerRun& run, Tensor x) { return run_res(run, std::move(x), 1, true); },
    .needs_unconditional = true,
};

}  // namespace sinter
