#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "pipelines/samplers/sampler.h"

namespace sinter {

/// The noise that a sampler draws in a run over these sigmas, as on a CPU: a fresh generator with the seed of the run, or a
/// Brownian path between the lowest level above 0 and the highest.
std::function<Tensor(float sigma, float next)> make_noise_source(NoiseSource source, std::vector<int64_t> shape,
                                                                 std::span<const float> sigmas, uint64_t seed);

}  // namespace sinter
