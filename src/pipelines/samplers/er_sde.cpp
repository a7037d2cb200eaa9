#include <algorithm>
#include <cmath>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

/// How the noise may shrink: the function phi of the paper.
float noise_scale(float level) { return level * (std::exp(std::pow(level, 0.3f)) + 10.0f); }

/// Integrals of 1/phi and of (l - from)/phi from `to` to `from`, by the rectangle sums of the authors' 200 points.
struct ScaleIntegrals {
  float plain, weighted;
};
ScaleIntegrals integrate(float from, float to) {
  constexpr int kPoints = 200;
  float step = -(to - from) / float(kPoints);
  double plain = 0, weighted = 0;
  for (int i = 0; i < kPoints; ++i) {
    float at = to + float(i) * step, scale = noise_scale(at);
    plain += 1 / scale;
    weighted += (at - from) / scale;
  }
  return {float(plain) * step, float(weighted) * step};
}

}  // namespace

/// Cui et al. 2023, "Elucidating the solution space of extended reverse-time SDE for diffusion models", third order.
const SamplerDef er_sde_sampler = {
    .name = "er_sde",
    .summary = "Stochastic, third order from earlier pictures, one model call a step.",
    .run =
        [](SamplerRun& run, Tensor x) {
          SnrTime time(run.model);
          auto sigmas = sigmas_with_signal(run);
          std::vector<float> levels;  // noise in units of the signal
          for (float sigma : sigmas) levels.push_back(std::exp(-time.of_sigma(sigma)));
          Tensor last, last_first;  // the last picture, and its derivative
          for (int i = 0; i < run.steps(); ++i) {
            float sigma = sigmas[size_t(i)], next = sigmas[size_t(i) + 1];
            Tensor denoised = run.denoise(x, sigma);
            run.on_step(i, x, denoised, sigma);
            if (next == 0) {
              x = denoised;
              continue;
            }
            float from = levels[size_t(i)], to = levels[size_t(i) + 1], change = to - from;
            float alpha = next / to, scale = noise_scale(to), ratio = scale / noise_scale(from);
            x = x * (alpha / (sigma / from) * ratio) + denoised * (alpha * (1 - ratio));
            auto [plain, weighted] = integrate(from, to);
            if (i >= 1) {
              Tensor first = (denoised - last) / (from - levels[size_t(i) - 1]);
              x = x + first * (alpha * (change + plain * scale));
              if (i >= 2) {
                Tensor second = (first - last_first) / ((from - levels[size_t(i) - 2]) / 2);
                x = x + second * (alpha * (change * change / 2 + weighted * scale));
              }
              last_first = first;
            }
            float variance = to * to - from * from * (ratio * ratio);
            x = x + run.noise(sigma, next) * (alpha * (variance > 0 ? std::sqrt(variance) : 0));
            last = denoised;
          }
          return x;
        },
};

}  // namespace sinter
