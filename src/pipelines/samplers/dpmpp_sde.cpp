#include <cmath>
#include <optional>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

/// One level on the half-log-SNR scale.
struct Level {
  float sigma, lambda, alpha;
};

Level level_of(const SnrTime& time, float sigma) {
  float lambda = time.of_sigma(sigma);
  return {sigma, lambda, sigma * std::exp(lambda)};
}

/// A stochastic step of first order between two levels (eta 1), given the picture to go to.
Tensor stochastic_move(SamplerRun& run, const Tensor& x, const Tensor& picture, const Level& from, const Level& to,
                       float noise_from) {
  auto [down, up] = ancestral_step(std::exp(-from.lambda), std::exp(-to.lambda));
  float h = -std::log(down) - from.lambda;
  Tensor moved = x * (to.alpha / from.alpha * std::exp(-h)) - picture * (to.alpha * std::expm1(-h));
  return moved + run.noise(noise_from, to.sigma) * to.alpha * up;
}

/// DPM-Solver++ as a stochastic equation with a model call half way.
Tensor run_sde(SamplerRun& run, Tensor x) {
  SnrTime time(run.model);
  auto sigmas = sigmas_with_signal(run);
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = sigmas[size_t(i)], next = sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, x, denoised, sigma);
    if (next == 0) {
      x = denoised;
      continue;
    }
    Level from = level_of(time, sigma), to = level_of(time, next);
    float lambda = from.lambda + 0.5f * (to.lambda - from.lambda), inside = time.to_sigma(lambda);
    Level middle{inside, lambda, inside * std::exp(lambda)};
    Tensor halfway = stochastic_move(run, x, denoised, from, middle, sigma);
    x = stochastic_move(run, x, run.denoise(halfway, inside), from, to, sigma);
  }
  return x;
}

enum class Second { Midpoint, Heun };

/// DPM-Solver++(2M) as a stochastic equation: the change of the picture is extrapolated from the last step.
template <Second kSecond>
Tensor run_2m_sde(SamplerRun& run, Tensor x) {
  SnrTime time(run.model);
  auto sigmas = sigmas_with_signal(run);
  std::optional<Tensor> last;
  float h_last = 0;
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = sigmas[size_t(i)], next = sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, x, denoised, sigma);
    if (next == 0) {
      x = denoised;
      continue;
    }
    Level from = level_of(time, sigma), to = level_of(time, next);
    float h = to.lambda - from.lambda, h_eta = 2 * h, gain = -std::expm1(-h_eta);
    x = x * (next / sigma * std::exp(-h)) + denoised * (to.alpha * gain);
    if (last) {
      float second = kSecond == Second::Heun ? gain / -h_eta + 1 : 0.5f * gain;
      x = x + (denoised - *last) * (to.alpha * second * (1 / (h_last / h)));
    }
    x = x + run.noise(sigma, next) * next * std::sqrt(-std::expm1(-2 * h));
    last = denoised;
    h_last = h;
  }
  return x;
}

/// Third order: the first and second derivative of the picture from the last two steps.
Tensor run_3m_sde(SamplerRun& run, Tensor x) {
  SnrTime time(run.model);
  auto sigmas = sigmas_with_signal(run);
  std::vector<Tensor> pictures;  // newest first
  std::vector<float> lengths;
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = sigmas[size_t(i)], next = sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, x, denoised, sigma);
    if (next == 0) {
      x = denoised;
      continue;
    }
    Level from = level_of(time, sigma), to = level_of(time, next);
    float h = to.lambda - from.lambda, h_eta = 2 * h;
    x = x * (next / sigma * std::exp(-h)) + denoised * (to.alpha * -std::expm1(-h_eta));
    float phi2 = std::expm1(-h_eta) / h_eta + 1, phi3 = phi2 / h_eta - 0.5f;
    if (pictures.size() == 1) {
      x = x + (denoised - pictures[0]) / (lengths[0] / h) * (to.alpha * phi2);
    } else if (pictures.size() == 2) {
      float r0 = lengths[0] / h, r1 = lengths[1] / h;
      Tensor newer = (denoised - pictures[0]) / r0, older = (pictures[0] - pictures[1]) / r1;
      Tensor first = newer + (newer - older) * (r0 / (r0 + r1)), second = (newer - older) / (r0 + r1);
      x = x + first * (to.alpha * phi2) - second * (to.alpha * phi3);
    }
    x = x + run.noise(sigma, next) * next * std::sqrt(-std::expm1(-2 * h));
    pictures.insert(pictures.begin(), denoised);
    lengths.insert(lengths.begin(), h);
    if (pictures.size() > 2) {
      pictures.pop_back();
      lengths.pop_back();
    }
  }
  return x;
}

}  // namespace

constexpr SamplerDef dpmpp_sde_sampler = {
    .name = "dpmpp_sde",
    .summary = "Stochastic, second order, two model calls a step.",
    .run = run_sde,
    .noise = NoiseSource::Brownian,
};

constexpr SamplerDef dpmpp_2m_sde_sampler = {
    .name = "dpmpp_2m_sde",
    .summary = "Stochastic, second order from the last step's picture, one model call a step.",
    .run = run_2m_sde<Second::Midpoint>,
    .noise = NoiseSource::Brownian,
};

constexpr SamplerDef dpmpp_2m_sde_heun_sampler = {
    .name = "dpmpp_2m_sde_heun",
    .summary = "dpmpp_2m_sde with Heun's weights for the second order.",
    .run = run_2m_sde<Second::Heun>,
    .noise = NoiseSource::Brownian,
};

constexpr SamplerDef dpmpp_3m_sde_sampler = {
    .name = "dpmpp_3m_sde",
    .summary = "Stochastic, third order from the last two steps' pictures, one model call a step.",
    .run = run_3m_sde,
    .noise = NoiseSource::Brownian,
};

// The names ending in _gpu differ in the device that draws the Brownian path, and ours is always drawn on the CPU.

static constexpr SamplerDef under_gpu_name(SamplerDef sampler, std::string_view name) {
  sampler.name = name;
  sampler.summary = "The same as without _gpu; workflows for GPUs use this name.";
  return sampler;
}

constinit const SamplerDef dpmpp_sde_gpu_sampler = under_gpu_name(dpmpp_sde_sampler, "dpmpp_sde_gpu");
constinit const SamplerDef dpmpp_2m_sde_gpu_sampler = under_gpu_name(dpmpp_2m_sde_sampler, "dpmpp_2m_sde_gpu");
constinit const SamplerDef dpmpp_2m_sde_heun_gpu_sampler = under_gpu_name(dpmpp_2m_sde_heun_sampler, "dpmpp_2m_sde_heun_gpu");
constinit const SamplerDef dpmpp_3m_sde_gpu_sampler = under_gpu_name(dpmpp_3m_sde_sampler, "dpmpp_3m_sde_gpu");

}  // namespace sinter
