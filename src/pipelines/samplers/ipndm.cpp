#include <algorithm>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

constexpr int kOrder = 4;

/// Weights of the newest slope and of those before it, which are to add up to 1.
using Weights = std::vector<float> (*)(std::span<const float> sigmas, int step, int order);

/// Adams and Bashforth for even steps, used on uneven ones (Zhang and Chen 2023, iPNDM).
std::vector<float> even_weights(std::span<const float>, int, int order) {
  if (order == 1) return {1};
  if (order == 2) return {3.0f / 2, -1.0f / 2};
  if (order == 3) return {23.0f / 12, -16.0f / 12, 5.0f / 12};
  return {55.0f / 24, -59.0f / 24, 37.0f / 24, -9.0f / 24};
}

/// The weights for uneven steps, built order by order: each adds a multiple of the next divided difference.
std::vector<float> uneven_weights(std::span<const float> sigmas, int step, int order) {
  auto length = [&](int back) { return sigmas[size_t(step - back) + 1] - sigmas[size_t(step - back)]; };
  std::vector<float> weights{1, 0, 0, 0};
  if (order >= 2) {
    float h = length(0), h1 = length(1);
    weights[0] += h / h1 / 2;
    weights[1] -= h / h1 / 2;
    if (order >= 3) {
      float h2 = length(2);
      float second = (1 - h / (3 * (h + h1)) * (h * (h + h1)) / (h1 * (h1 + h2))) / 2;
      weights[0] += second;
      weights[1] -= (1 + h1 / h2) * second;
      weights[2] += h1 / h2 * second;
      if (order >= 4) {
        float h3 = length(3), spread = h1 * (h1 + h2) / (h2 * (h2 + h3));
        float third = ((1 - h / (3 * (h + h1))) / 2 + (1 - h / (2 * (h + h1))) * h / (6 * (h + h1 + h2))) *
                      (h * (h + h1) * (h + h1 + h2)) / (h1 * (h1 + h2) * (h1 + h2 + h3));
        weights[0] += third;
        weights[1] -= (1 + h1 / h2 + spread) * third;
        weights[2] += (h1 / h2 + spread * (1 + h2 / h3)) * third;
        weights[3] -= spread * h1 / h2 * third;
      }
    }
  }
  return weights;
}

Tensor run_multistep(SamplerRun& run, Tensor x, Weights weights_of) {
  const Tensor start = x;      // what the reference reports at every step; x itself it keeps to itself
  std::vector<Tensor> slopes;  // newest first
  for (int i = 0; i < run.steps(); ++i) {
    float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
    Tensor denoised = run.denoise(x, sigma);
    run.on_step(i, start, denoised, sigma);
    if (next == 0) {
      x = denoised;
      continue;
    }
    slopes.insert(slopes.begin(), slope(x, sigma, denoised));
    if (slopes.size() > kOrder) slopes.pop_back();
    auto weights = weights_of(run.sigmas, i, int(slopes.size()));
    Tensor mean = slopes[0] * weights[0];
    for (size_t k = 1; k < slopes.size(); ++k) mean = mean + slopes[k] * weights[k];
    x = x + mean * (next - sigma);
  }
  return x;
}

}  // namespace

const SamplerDef ipndm_sampler = {
    .name = "ipndm",
    .summary = "Fourth order with the weights of even steps, one model call a step, deterministic.",
    .run = [](SamplerRun& run, Tensor x) { return run_multistep(run, std::move(x), even_weights); },
};

const SamplerDef ipndm_v_sampler = {
    .name = "ipndm_v",
    .summary = "ipndm with weights for uneven steps, one model call a step, deterministic.",
    .run = [](SamplerRun& run, Tensor x) { return run_multistep(run, std::move(x), uneven_weights); },
};

}  // namespace sinter
