#include <algorithm>
#include <cmath>
#include <span>

#include "pipelines/samplers/linear_solve.h"
#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

constexpr int kPredictorOrder = 3, kCorrectorOrder = 4;

/// (1+tau^2) * integral of e^((1+tau^2)(l-h)) l^power over [0, h], by parts from the lowest power up.
std::vector<double> exponential_moments(double h, double tau, int count) {
  double rate = 1 + tau * tau;
  std::vector<double> moments{-std::expm1(-rate * h)};
  for (int power = 1; power < count; ++power) moments.push_back(std::pow(h, power) - power / rate * moments.back());
  return moments;
}

/// Weights of the pictures at `nodes` (half log SNR) for the step from `from` to `to`: the integrals of their Lagrange
/// polynomials against the exponential above (Xue et al. 2023, SA-Solver, equation 14), times the signal at the end.
std::vector<float> adams_weights(std::span<const float> nodes, float from, float to, float tau, float alpha) {
  int order = int(nodes.size());
  auto moments = exponential_moments(double(to) - from, tau, order);
  std::vector<std::vector<double>> powers(static_cast<size_t>(order));
  for (int power = 0; power < order; ++power)
    for (float node : nodes) powers[size_t(power)].push_back(std::pow(double(node) - from, power));
  std::vector<float> weights;
  for (double weight : linear_solve(powers, moments)) weights.push_back(float(weight) * alpha);
  return weights;
}

class StochasticAdams {
 public:
  StochasticAdams(SamplerRun& run, bool evaluate_corrected)
      : run_(run), evaluate_corrected_(evaluate_corrected), sigmas_(sigmas_with_signal(run)) {
    SnrTime time(run.model);
    for (float sigma : sigmas_) lambdas_.push_back(time.of_sigma(sigma));
    noisy_from_ = run.model.percent_to_sigma(0.2);
    noisy_to_ = run.model.percent_to_sigma(0.8);
  }

  Tensor sample(Tensor predicted) {
    Tensor x;
    for (int i = 0; i < run_.steps(); ++i) {
      float sigma = sigmas_[size_t(i)], next = sigmas_[size_t(i) + 1];
      Tensor denoised = run_.denoise(predicted, sigma);
      run_.on_step(i, predicted, denoised, sigma);
      pictures_.push_back(denoised);
      if (pictures_.size() > kCorrectorOrder) pictures_.erase(pictures_.begin());
      int corrector = corrector_order(i), predictor = predictor_order(i);
      x = corrector == 0 ? predicted : correct(x, i, corrector);
      if (corrector > 0 && evaluate_corrected_) pictures_.back() = denoised = run_.denoise(x, sigma);
      if (next == 0)
        x = denoised;
      else
        predicted = predict(x, i, predictor);
    }
    return sigmas_.back() == 0 ? x : predicted;
  }

 private:
  /// Near the end at 0 the orders fall to 1.
  int predictor_order(int i) const {
    int order = std::min(kPredictorOrder, int(pictures_.size()));
    return sigmas_.back() == 0 ? std::min(order, run_.steps() - 1 - i) : order;
  }
  int corrector_order(int i) const {
    if (i == 0 || (sigmas_[size_t(i) + 1] == 0 && !evaluate_corrected_)) return 0;
    int order = std::min(kCorrectorOrder, int(pictures_.size()));
    return sigmas_.back() == 0 ? std::min(order, run_.steps() - i) : order;
  }

  /// The step between two neighbouring levels from the pictures at the levels up to `newest`.
  Tensor move(const Tensor& x, int from, int newest, int order, float tau) const {
    size_t a = size_t(from), b = a + 1;
    float h = lambdas_[b] - lambdas_[a], alpha = sigmas_[b] * std::exp(lambdas_[b]);
    auto nodes = std::span(lambdas_).subspan(size_t(newest + 1 - order), size_t(order));
    auto weights = adams_weights(nodes, lambdas_[a], lambdas_[b], tau, alpha);
    Tensor moved = x * (sigmas_[b] / sigmas_[a] * std::exp(-(tau * tau) * h));
    for (int k = 0; k < order; ++k) moved = moved + pictures_[pictures_.size() - size_t(order - k)] * weights[size_t(k)];
    return moved;
  }

  /// Takes the last step again, with the picture at its end and the same noise.
  Tensor correct(const Tensor& x, int i, int order) const {
    Tensor moved = move(x, i - 1, i, order, tau_);
    return tau_ > 0 ? moved + noise_ : moved;
  }

  Tensor predict(const Tensor& x, int i, int order) {
    float sigma = sigmas_[size_t(i)], next = sigmas_[size_t(i) + 1];
    tau_ = next <= noisy_from_ && next >= noisy_to_ ? 1.0f : 0.0f;
    Tensor moved = move(x, i, i, order, tau_);
    if (tau_ == 0) return moved;
    float h = lambdas_[size_t(i) + 1] - lambdas_[size_t(i)];
    noise_ = run_.noise(sigma, next) * next * std::sqrt(-std::expm1(-2 * (tau_ * tau_) * h));
    return moved + noise_;
  }

  SamplerRun& run_;
  bool evaluate_corrected_;
  std::vector<float> sigmas_, lambdas_;
  double noisy_from_, noisy_to_;  ///< steps that end between these levels are stochastic
  std::vector<Tensor> pictures_;  ///< oldest first
  Tensor noise_;                  ///< of the last predictor step
  float tau_ = 0;                 ///< how stochastic the last predictor step was
};

}  // namespace

const SamplerDef sa_solver_sampler = {
    .name = "sa_solver",
    .summary = "Stochastic Adams predictor and corrector, third and fourth order, one model call a step.",
    .run = [](SamplerRun& run, Tensor x) { return StochasticAdams(run, false).sample(std::move(x)); },
};

const SamplerDef sa_solver_pece_sampler = {
    .name = "sa_solver_pece",
    .summary = "sa_solver with another model call on the corrected latent.",
    .run = [](SamplerRun& run, Tensor x) { return StochasticAdams(run, true).sample(std::move(x)); },
};

}  // namespace sinter
