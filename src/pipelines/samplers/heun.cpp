#include <algorithm>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

/// Karras et al. 2022, algorithm 1 without churn: the mean of the slopes at both ends of the step.
Tensor run_heun(SamplerRun& run, Tensor x) {
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, x, denoised, sigma);
    Tensor start = slope(x, sigma, denoised), moved = x + start * (next - sigma);
    if (next == 0) {
      x = moved;
      continue;
    }
    Tensor end = slope(moved, next, run.denoise(moved, next));
    x = x + (start + end) / 2 * (next - sigma);
  }
  return x;
}

/// Heun with a look two steps ahead. The slopes that lie ahead weigh the less the smaller their sigma is against the first one.
Tensor run_heunpp2(SamplerRun& run, Tensor x) {
  float first = run.sigmas.front();
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    int ahead = std::min(run.steps() - 1 - i, 2);  // how many levels beyond this one are worth a model call
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, x, denoised, sigma);
    Tensor start = slope(x, sigma, denoised), mean = start;
    if (ahead >= 1) {
      Tensor moved = x + start * (next - sigma);
      Tensor second = slope(moved, next, run.denoise(moved, next));
      float weight2 = next / (float(ahead + 1) * first);
      if (ahead == 1) {
        mean = start * (1 - weight2) + second * weight2;
      } else {
        float after = run.sigmas[size_t(i) + 2], weight3 = after / (3 * first);
        moved = moved + second * (after - next);
        Tensor third = slope(moved, after, run.denoise(moved, after));
        mean = start * (1 - weight2 - weight3) + second * weight2 + third * weight3;
      }
    }
    x = x + mean * (next - sigma);
  }
  return x;
}

}  // namespace

const SamplerDef heun_sampler = {
    .name = "heun",
    .summary = "Second order, two model calls a step, deterministic.",
    .run = run_heun,
};

const SamplerDef heunpp2_sampler = {
    .name = "heunpp2",
    .summary = "heun with a look two steps ahead, up to three model calls a step, deterministic.",
    .run = run_heunpp2,
};

}  // namespace sinter
