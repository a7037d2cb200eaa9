#include <algorithm>
#include <cmath>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

constexpr int kOrder = 3;
constexpr int kPoints = 10000;

/// The variance-preserving diffusion with beta(t) = low + t*(high-low) whose sigma is 0.002 at t = 0.001 and 80 at t = 1.
struct LinearBeta {
  double low, slope;

  static LinearBeta standard() {
    constexpr double kFirst = 1e-3;
    double log_low = std::log(0.002 * 0.002 + 1), log_high = std::log(80.0 * 80.0 + 1);
    double slope = 2 * (log_low / kFirst - log_high) / (kFirst - 1);
    return {log_high - 0.5 * slope, slope};
  }
  float time(float sigma) const {
    float inside = float(low * low) + float(2 * slope) * std::log(sigma * sigma + 1);
    return (std::sqrt(inside) - float(low)) / float(slope);
  }
  /// d sigma' / d t, sigma' being the noise in units of the signal, as the integrand of the exponential integrator.
  float integrand(float t) const {
    float alpha = std::exp(-0.5f * t * t * float(slope) - t * float(low));
    float log_slope = -t * float(slope) - float(low);
    return -0.5f * log_slope / std::sqrt(alpha * (1 - alpha));
  }
};

/// Weights of the newest slope and those before it for the step from times[step] to times[step + 1] (Zhang and Chen 2023,
/// tAB-DEIS): integrals of the Lagrange polynomials in t, by the mean over evenly spaced points as in the authors' tables.
std::vector<float> weights_for(const LinearBeta& beta, std::span<const float> times, int step, int order) {
  float from = times[size_t(step)], to = times[size_t(step) + 1];
  float spacing = (to - from) / float(kPoints - 1);
  std::vector<double> sums(size_t(order), 0.0);
  for (int point = 0; point < kPoints; ++point) {
    float t = point < kPoints / 2 ? from + spacing * float(point) : to - spacing * float(kPoints - 1 - point);
    float height = beta.integrand(t);
    for (int j = 0; j < order; ++j) {
      float polynomial = 1;
      for (int k = 0; k < order; ++k)
        if (k != j) polynomial *= (t - times[size_t(step - k)]) / (times[size_t(step - j)] - times[size_t(step - k)]);
      sums[size_t(j)] += height * polynomial;
    }
  }
  std::vector<float> weights;
  for (double sum : sums) weights.push_back(float(sum) * ((to - from) / float(kPoints)));
  return weights;
}

}  // namespace

const SamplerDef deis_sampler = {
    .name = "deis",
    .summary = "Third-order exponential integrator from earlier slopes, one model call a step, deterministic.",
    .run =
        [](SamplerRun& run, Tensor x) {
          auto beta = LinearBeta::standard();
          std::vector<float> times;
          for (float sigma : run.sigmas) times.push_back(beta.time(sigma));
          const Tensor start = x;      // what the reference reports at every step; x itself it keeps to itself
          std::vector<Tensor> slopes;  // newest first
          for (int i = 0; i < run.steps(); ++i) {
            float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
            Tensor denoised = run.denoise(x, sigma);
            run.on_step(i, start, denoised, sigma);
            slopes.insert(slopes.begin(), slope(x, sigma, denoised));
            if (slopes.size() > kOrder) slopes.pop_back();
            if (slopes.size() == 1 || next <= 0) {
              x = x + slopes[0] * (next - sigma);
              continue;
            }
            auto weights = weights_for(beta, times, i, int(slopes.size()));
            for (size_t k = 0; k < slopes.size(); ++k) x = x + slopes[k] * weights[k];
          }
          return x;
        },
};

}  // namespace sinter
