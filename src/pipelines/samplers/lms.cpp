#include <algorithm>
#include <cmath>

#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

constexpr int kOrder = 4;

/// Integral over the step of the polynomial that is 1 at level number `step - which` and 0 at the other levels in use. The degree
/// is at most 3, so two Gauss points are exact.
double adams_weight(std::span<const float> sigmas, int step, int order, int which) {
  auto polynomial = [&](double at) {
    double value = 1;
    for (int k = 0; k < order; ++k)
      if (k != which) value *= (at - sigmas[size_t(step - k)]) / double(sigmas[size_t(step - which)] - sigmas[size_t(step - k)]);
    return value;
  };
  double from = sigmas[size_t(step)], to = sigmas[size_t(step) + 1];
  double middle = 0.5 * (from + to), offset = 0.5 * (to - from) / std::sqrt(3.0);
  return 0.5 * (to - from) * (polynomial(middle - offset) + polynomial(middle + offset));
}

}  // namespace

/// Adams and Bashforth's linear multistep method on the uneven grid of sigmas.
const SamplerDef lms_sampler = {
    .name = "lms",
    .summary = "Up to fourth order from the slopes of earlier steps, one model call a step, deterministic.",
    .run =
        [](SamplerRun& run, Tensor x) {
          std::vector<Tensor> slopes;
          for (int i = 0; i < run.steps(); ++i) {
            float sigma = run.sigmas[size_t(i)];
            Tensor denoised = run.denoise(x, sigma);
            run.on_step(i, x, denoised, sigma);
            if (run.sigmas[size_t(i) + 1] == 0) {
              x = denoised;
              continue;
            }
            slopes.push_back(slope(x, sigma, denoised));
            if (slopes.size() > kOrder) slopes.erase(slopes.begin());
            int order = int(slopes.size());
            Tensor change = slopes.back() * float(adams_weight(run.sigmas, i, order, 0));
            for (int j = 1; j < order; ++j)
              change = change + slopes[size_t(order - 1 - j)] * float(adams_weight(run.sigmas, i, order, j));
            x = x + change;
          }
          return x;
        },
};

}  // namespace sinter
