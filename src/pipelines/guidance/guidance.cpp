#include "pipelines/guidance/guidance.h"

#include "base/error.h"
#include "pipelines/latent_math.h"

namespace sinter {

Tensor average_by_strength(std::span<const Tensor> denoised, std::span<const Conditioning> conditionings) {
  SINTER_ASSERT(!denoised.empty() && denoised.size() == conditionings.size());
  if (denoised.size() == 1) return denoised[0];
  Tensor sum = denoised[0] * conditionings[0].strength;
  float total = conditionings[0].strength;
  for (size_t i = 1; i < denoised.size(); ++i) {
    sum = sum + denoised[i] * conditionings[i].strength;
    total += conditionings[i].strength;
  }
  if (total == 0)
    fail(Code::InvalidArgument, "the strengths of {} conditionings add up to 0; give one of them more", denoised.size());
  return sum / total;
}

Tensor classifier_free_guidance(const Tensor& conditional, const Tensor& unconditional, float cfg) {
  return unconditional + (conditional - unconditional) * cfg;
}

}  // namespace sinter
