#include "pipelines/samplers/step_math.h"

namespace sinter {

/// Luo et al. 2023, algorithm 3: jump to the picture, add noise for the next level.
const SamplerDef lcm_sampler = {
    .name = "lcm",
    .summary = "For latent consistency models: few steps, each to the picture and back to less noise.",
    .run =
        [](SamplerRun& run, Tensor x) {
          for (int i = 0; i < run.steps(); ++i) {
            float sigma = run.sigmas[size_t(i)], next = run.sigmas[size_t(i) + 1];
            Tensor denoised = run.denoise(x, sigma);
            run.on_step(i, x, denoised, sigma);
            x = next > 0 ? run.model.add_noise(next, run.noise(sigma, next), denoised) : denoised;
          }
          return x;
        },
};

}  // namespace sinter
