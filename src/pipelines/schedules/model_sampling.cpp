#include "pipelines/schedules/model_sampling.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "pipelines/latent_math.h"

namespace sinter {
namespace {

constexpr int kTableLevels = 1000;
constexpr int kFluxLevels = 10000;

/// Noise levels of the "scaled linear" schedule: the square roots of beta rise evenly.
std::vector<double> scaled_linear_sigmas() {
  const double first = std::sqrt(0.00085), last = std::sqrt(0.012), step = (last - first) / (kTableLevels - 1);
  std::vector<double> sigmas(kTableLevels);
  double signal = 1;  // product of 1-beta so far
  for (int i = 0; i < kTableLevels; ++i) {
    double root = first + step * i;
    signal *= 1 - root * root;
    sigmas[size_t(i)] = std::sqrt((1 - signal) / signal);
  }
  return sigmas;
}

/// Lin et al. 2024, algorithm 1: the square root of the signal moves to 0 at the last level and stays at the first. The last
/// level itself gets the tiny signal that the reference gives it, because its sigma would be infinite.
void rescale_to_zero_terminal_snr(std::vector<double>& sigmas) {
  constexpr double kLastSignal = 4.8973451890853435e-08;
  auto root = [](double sigma) { return std::sqrt(1 / (sigma * sigma + 1)); };
  double first = root(sigmas.front()), last = root(sigmas.back());
  for (double& sigma : sigmas) {
    double moved = (root(sigma) - last) * (first / (first - last));
    double signal = &sigma == &sigmas.back() ? kLastSignal : moved * moved;
    sigma = std::sqrt((1 - signal) / signal);
  }
}

template <class Number>
Number ratio_shift(double shift, Number t) {
  return shift == 1 ? t : Number(shift) * t / (1 + Number(shift - 1) * t);
}

template <class Number>
Number exponential_shift(double shift, Number t) {
  Number scale = Number(std::exp(shift));
  return 1 / (scale + (1 / t - 1)) * scale;  // PyTorch divides a number by a tensor in this order
}

}  // namespace

ModelSampling ModelSampling::stable_diffusion(Prediction prediction, bool zero_terminal_snr) {
  if (prediction == Prediction::Flow) fail(Code::InvalidArgument, "flow models have no Stable Diffusion noise table");
  ModelSampling model;
  model.prediction_ = prediction;
  auto sigmas = scaled_linear_sigmas();
  if (zero_terminal_snr) rescale_to_zero_terminal_snr(sigmas);
  for (double sigma : sigmas) {
    model.sigmas_.push_back(float(sigma));
    model.log_sigmas_.push_back(float(std::log(sigma)));
  }
  return model;
}

ModelSampling ModelSampling::discrete_flow(double shift, double multiplier) {
  if (!(shift > 0) || !(multiplier > 0))
    fail(Code::InvalidArgument, "a flow model's shift and time multiplier must be positive, not {} and {}", shift, multiplier);
  ModelSampling model;
  model.prediction_ = Prediction::Flow;
  model.time_ = Time::Ratio;
  model.shift_ = shift;
  model.multiplier_ = multiplier;
  for (int i = 1; i <= kTableLevels; ++i)
    model.sigmas_.push_back(model.sigma(float(i) / float(kTableLevels) * float(multiplier)));
  return model;
}

ModelSampling ModelSampling::flux(double shift) {
  if (!std::isfinite(shift)) fail(Code::InvalidArgument, "a FLUX model's shift must be finite, not {}", shift);
  ModelSampling model;
  model.prediction_ = Prediction::Flow;
  model.time_ = Time::Exponential;
  model.shift_ = shift;
  for (int i = 1; i <= kFluxLevels; ++i) model.sigmas_.push_back(model.sigma(float(i) / float(kFluxLevels)));
  return model;
}

float ModelSampling::timestep(float sigma) const {
  if (time_ != Time::Index) return sigma * float(multiplier_);
  float log_sigma = std::log(sigma);
  auto nearer = [&](float a, float b) { return std::abs(log_sigma - a) < std::abs(log_sigma - b); };
  return float(std::min_element(log_sigmas_.begin(), log_sigmas_.end(), nearer) - log_sigmas_.begin());
}

float ModelSampling::sigma(float timestep) const {
  if (time_ == Time::Ratio) return ratio_shift(shift_, timestep / float(multiplier_));
  if (time_ == Time::Exponential) return exponential_shift(shift_, timestep);
  float t = std::clamp(timestep, 0.0f, float(sigmas_.size() - 1));
  float below = std::floor(t), part = t - below;
  return std::exp((1 - part) * log_sigmas_[size_t(below)] + part * log_sigmas_[size_t(std::ceil(t))]);
}

double ModelSampling::percent_to_sigma(double percent) const {
  if (percent <= 0) return is_flow() ? 1.0 : 999999999.9;
  if (percent >= 1) return 0;
  double t = 1 - percent;
  if (time_ == Time::Ratio) return ratio_shift(shift_, t);
  if (time_ == Time::Exponential) return exponential_shift(shift_, t);
  return sigma(float(t * double(sigmas_.size() - 1)));
}

Tensor ModelSampling::add_noise(float sigma, const Tensor& noise, const Tensor& latent, bool from_pure_noise) const {
  if (is_flow()) return noise * sigma + latent * (1.0f - sigma);
  return noise * (from_pure_noise ? std::sqrt(1.0f + sigma * sigma) : sigma) + latent;
}

Tensor ModelSampling::remove_noise_scale(float sigma, const Tensor& x) const { return is_flow() ? x / (1.0f - sigma) : x; }

Tensor ModelSampling::network_input(const Tensor& x, float sigma) const {
  return is_flow() ? x : x / std::sqrt(sigma * sigma + 1.0f);
}

Tensor ModelSampling::denoised(const Tensor& x, const Tensor& output, float sigma) const {
  if (prediction_ != Prediction::Velocity) return x - output * sigma;
  float variance = sigma * sigma + 1.0f;
  return x / variance - output * (sigma / std::sqrt(variance));
}

}  // namespace sinter
