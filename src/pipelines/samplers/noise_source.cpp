#include "pipelines/samplers/noise_source.h"

#include <algorithm>
#include <limits>
#include <memory>

#include "tensor/brownian.h"
#include "tensor/random.h"

namespace sinter {

std::function<Tensor(float sigma, float next)> make_noise_source(NoiseSource source, std::vector<int64_t> shape,
                                                                 std::span<const float> sigmas, uint64_t seed) {
  if (source == NoiseSource::Normal) {
    auto generator = std::make_shared<RandomGenerator>(seed);
    return [generator, shape = std::move(shape)](float, float) { return generator->randn(shape); };
  }
  float low = std::numeric_limits<float>::infinity(), high = 0;
  for (float sigma : sigmas) {
    if (sigma > 0) low = std::min(low, sigma);
    high = std::max(high, sigma);
  }
  // Made at the first draw: a run of one step draws nothing, and its range is empty.
  auto path = std::make_shared<std::unique_ptr<BrownianNoise>>();
  return [=, shape = std::move(shape)](float sigma, float next) {
    if (!*path) *path = std::make_unique<BrownianNoise>(shape, low, high, seed);
    return (**path)(sigma, next);
  };
}

}  // namespace sinter
