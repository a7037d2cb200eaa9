#pragma once
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace sinter {

/// One conditioning of a list: which one (a number that the Denoiser understands) and its weight in the average.
struct Conditioning {
  int id = 0;
  float strength = 1;
};

/// What a picture is steered towards and away from. With cfg 1 the negative list is not evaluated.
struct Guidance {
  std::vector<Conditioning> positive, negative;
  float cfg = 1;
};

/// The average of what each conditioning gives, weighted by strength; one tensor for each conditioning.
Tensor average_by_strength(std::span<const Tensor> denoised, std::span<const Conditioning> conditionings);

/// Ho and Salimans 2022: away from the unconditional picture by `cfg` times the difference.
Tensor classifier_free_guidance(const Tensor& conditional, const Tensor& unconditional, float cfg);

}  // namespace sinter
