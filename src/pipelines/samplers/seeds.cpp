#include <cmath>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

/// A step of the SEEDS solvers (Gonzalez et al. 2023) in half log SNR, eta 1.
struct SeedsStep {
  SnrTime time;
  float sigma, next, lambda, h;

  SeedsStep(const ModelSampling& model, float from, float to) : time(model), sigma(from), next(to) {
    lambda = time.of_sigma(from);
    h = time.of_sigma(to) - lambda;
  }
  /// The level a part of the way along; the end itself for 1.
  float sigma_at(float part) const { return part == 1 ? next : time.to_sigma(lambda_at(part)); }
  float lambda_at(float part) const {
    float end = lambda + h;
    return part < 0.5f ? lambda + part * h : end - h * (1 - part);
  }
  float alpha_at(float part) const { return sigma_at(part) * std::exp(lambda_at(part)); }
  /// expm1 of twice the way (eta 1 doubles it), with the sign of decay.
  float decay(float part) const { return std::expm1(-part * (2 * h)); }
  /// First-order step to there, without noise.
  Tensor move(const Tensor& x, const Tensor& picture, float part) const {
    return x * (sigma_at(part) / sigma * std::exp(-part * h)) - picture * (alpha_at(part) * decay(part));
  }
  /// Size of the noise that came in between two parts of the way, seen from the later end of as long a way.
  float noise_between(float begin, float end) const { return std::sqrt(std::expm1(-2 * begin * h) - std::expm1(-2 * end * h)); }
};

Tensor two_stages(SamplerRun& run, const Tensor& x, const Tensor& denoised, const SeedsStep& step) {
  constexpr float kPart = 0.5f;
  float middle = step.sigma_at(kPart);
  float fresh = step.noise_between(0, kPart), older = step.noise_between(kPart, 1);
  Tensor noise1 = run.noise(step.sigma, middle), noise2 = run.noise(middle, step.next);
  Tensor inside = step.move(x, denoised, kPart) + noise1 * fresh * middle;
  Tensor picture = run.denoise(inside, middle);
  return step.move(x, picture, 1) + (noise1 * older + noise2 * fresh) * step.next;
}

Tensor three_stages(SamplerRun& run, const Tensor& x, const Tensor& denoised, const SeedsStep& step) {
  constexpr float kPart1 = 1.0f / 3, kPart2 = 2.0f / 3;
  float level1 = step.sigma_at(kPart1), level2 = step.sigma_at(kPart2);
  float newest = step.noise_between(0, kPart1), middle = step.noise_between(kPart1, kPart2),
        oldest = step.noise_between(kPart2, 1);
  Tensor noise1 = run.noise(step.sigma, level1), noise2 = run.noise(level1, level2), noise3 = run.noise(level2, step.next);
  /// Weight of the change of the picture, for the way up to `part` with the change measured at `at`.
  auto second_order = [&](float part, float at) {
    return step.alpha_at(part) * (step.decay(part) / (part * (2 * step.h)) + 1) * (part / at);
  };
  Tensor first = step.move(x, denoised, kPart1) + noise1 * newest * level1;
  Tensor picture1 = run.denoise(first, level1);
  Tensor second = step.move(x, denoised, kPart2) + (picture1 - denoised) * second_order(kPart2, kPart1) +
                  (noise1 * middle + noise2 * newest) * level2;
  Tensor picture2 = run.denoise(second, level2);
  return step.move(x, denoised, 1) + (picture2 - denoised) * second_order(1, kPart2) +
         (noise1 * oldest + noise2 * middle + noise3 * newest) * step.next;
}

template <class Stages>
Tensor run_seeds(SamplerRun& run, Tensor x, Stages&& stages) {
  auto sigmas = sigmas_with_signal(run);
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = sigmas[size_t(i)], next = sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, x, denoised, sigma);
    x = next == 0 ? denoised : stages(run, x, denoised, SeedsStep(run.model, sigma, next));
  }
  return x;
}

}  // namespace

const SamplerDef seeds_2_sampler = {
    .name = "seeds_2",
    .summary = "Stochastic exponential solver with two model calls a step.",
    .run = [](SamplerRun& run, Tensor x) { return run_seeds(run, std::move(x), two_stages); },
};

const SamplerDef seeds_3_sampler = {
    .name = "seeds_3",
    .summary = "Stochastic exponential solver with three model calls a step.",
    .run = [](SamplerRun& run, Tensor x) { return run_seeds(run, std::move(x), three_stages); },
};

}  // namespace sinter
