#include "pipelines/samplers/step_math.h"

#include <algorithm>
#include <cmath>

namespace sinter {

AncestralStep ancestral_step(float from, float to, float eta) {
  if (eta == 0) return {to, 0};
  // The bound comes first: from an infinite level the other value is not a number, and std::min then gives the bound.
  float up = std::min(to, eta * std::sqrt(to * to * (from * from - to * to) / (from * from)));
  return {std::sqrt(to * to - up * up), up};
}

FlowAncestralStep flow_ancestral_step(float from, float to, float eta) {
  float down = to * (1 + (to / from - 1) * eta);
  float signal = 1 - to, signal_down = 1 - down;
  float variance = to * to - down * down * (signal * signal) / (signal_down * signal_down);
  return {down, signal / signal_down, std::sqrt(variance)};
}

float log_middle(float a, float b) {
  float low = std::log(a), high = std::log(b);
  return std::exp(high - (high - low) * 0.5f);
}

float SnrTime::of_sigma(float sigma) const { return flow_ ? -std::log(sigma / (1 - sigma)) : -std::log(sigma); }

float SnrTime::to_sigma(float lambda) const { return flow_ ? 1 / (1 + std::exp(lambda)) : std::exp(-lambda); }

std::vector<float> sigmas_with_signal(const SamplerRun& run) {
  constexpr double kPercent = 1e-4;
  auto sigmas = run.sigmas;
  if (run.model.is_flow() && sigmas.size() > 1 && sigmas[0] >= 1) sigmas[0] = float(run.model.percent_to_sigma(kPercent));
  return sigmas;
}

}  // namespace sinter
