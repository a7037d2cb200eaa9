#include <algorithm>
#include <cmath>

#include "pipelines/samplers/linear_solve.h"
#include "pipelines/samplers/step_math.h"

namespace sinter {
namespace {

/// The variance-preserving scaling that the solver works in, for a level sigma of x = latent + sigma*noise. The logarithms are
/// taken as the reference takes them: close to 0 their rounding shows in the result.
struct Level {
  float sigma, log_alpha, deviation, lambda;

  explicit Level(float level) : sigma(level) {
    log_alpha = 0.5f * std::log(1 / (sigma * sigma + 1));
    float variance = 1 - std::exp(2 * log_alpha);
    deviation = std::sqrt(variance);
    lambda = log_alpha - 0.5f * std::log(variance);
  }
  float alpha() const { return std::exp(log_alpha); }
};

/// Which function B(h) of the paper.
enum class Variant { Bh1, Bh2 };

/// Zhao et al. 2023, "UniPC", data prediction, multistep: each step is predicted, then corrected with the model's answer at its
/// end, which the next step uses again.
class UniPC {
 public:
  UniPC(SamplerRun& run, Variant variant) : run_(run), variant_(variant) {
    // Level 0 has no logarithm. The run does end here, and a flow model's result is scaled back from here.
    if (run.sigmas.back() == 0) run.sigmas.back() = 0.001f;
    for (float sigma : run.sigmas) levels_.emplace_back(sigma);
    order_ = std::min(3, int(levels_.size()) - 2);
  }

  Tensor sample(Tensor x) {
    int steps = run_.steps();
    // One step is no step: the reference, too, then returns the noise as it came.
    x = x / std::sqrt(1 + levels_[0].sigma * levels_[0].sigma);
    remember(x, 0);
    run_.on_step(0, x, pictures_.back(), levels_[0].sigma);
    for (int i = 1; i < steps; ++i) {
      x = step(x, i, i < order_ ? i : std::min(order_, steps + 1 - i), true);
      // The last of the asked-for steps takes the one to the end as well: there are as many model calls as steps.
      if (i == steps - 1 && i >= order_) x = step(x, steps, std::min(order_, 1), false);
      run_.on_step(i, x, pictures_.back(), levels_[size_t(i)].sigma);
    }
    return x / levels_.back().alpha();
  }

 private:
  Tensor denoise(const Tensor& x, const Level& level) {
    return run_.denoise(x * std::sqrt(level.sigma * level.sigma + 1), level.sigma);
  }
  void remember(const Tensor& x, int index) { remember(denoise(x, levels_[size_t(index)]), levels_[size_t(index)]); }
  void remember(Tensor picture, const Level& level) {
    pictures_.push_back(std::move(picture));
    seen_.push_back(level);
    if (int(pictures_.size()) > std::max(order_, 1)) {
      pictures_.erase(pictures_.begin());
      seen_.erase(seen_.begin());
    }
  }

  /// The linear system for the weights of the differences: row k holds the k-th powers of the relative positions.
  struct System {
    std::vector<std::vector<double>> powers;
    std::vector<double> right;

    std::vector<double> solve(size_t unknowns) const {
      auto rows = powers;
      auto values = right;
      rows.resize(unknowns);
      values.resize(unknowns);
      for (auto& row : rows) row.resize(unknowns);
      return linear_solve(rows, values);
    }
  };

  static System system_for(const std::vector<float>& positions, float minus_h, float scale) {
    System system;
    float phi = std::expm1(minus_h) / minus_h - 1, factorial = 1;
    for (size_t k = 1; k <= positions.size(); ++k) {
      std::vector<double> row;
      for (float position : positions) row.push_back(std::pow(double(position), double(k - 1)));
      system.powers.push_back(row);
      system.right.push_back(phi * factorial / scale);
      factorial *= float(k + 1);
      phi = phi / minus_h - 1 / factorial;
    }
    return system;
  }

  Tensor step(const Tensor& x, int index, int order, bool correct) {
    const Level &to = levels_[size_t(index)], &from = seen_.back();
    const Tensor last = pictures_.back();
    float h = to.lambda - from.lambda;
    float growth = std::expm1(-h), scale = variant_ == Variant::Bh1 ? -h : growth;

    std::vector<float> positions;
    std::vector<Tensor> differences;
    for (int k = 1; k < order; ++k) {
      size_t older = pictures_.size() - 1 - size_t(k);
      float position = (seen_[older].lambda - from.lambda) / h;
      positions.push_back(position);
      differences.push_back((pictures_[older] - last) / position);
    }
    positions.push_back(1);
    System system = system_for(positions, -h, scale);

    Tensor first_order = x * (to.deviation / from.deviation) - last * (to.alpha() * growth);
    Tensor predicted = first_order;
    // With one difference the paper's condition leaves the weight free; it recommends 1/2, as for the corrector of order 1.
    std::vector<double> weights = order == 2 ? std::vector<double>{0.5} : system.solve(differences.size());
    for (size_t k = 0; k < differences.size(); ++k)
      predicted = predicted - differences[k] * (to.alpha() * scale * float(weights[k]));
    if (!correct) return predicted;

    Tensor picture = denoise(predicted, to);
    weights = order == 1 ? std::vector<double>{0.5} : system.solve(positions.size());
    Tensor corrected = first_order - (picture - last) * (to.alpha() * scale * float(weights.back()));
    for (size_t k = 0; k < differences.size(); ++k)
      corrected = corrected - differences[k] * (to.alpha() * scale * float(weights[k]));
    remember(picture, to);
    return corrected;
  }

  SamplerRun& run_;
  Variant variant_;
  std::vector<Level> levels_;
  int order_;
  std::vector<Tensor> pictures_;  ///< the model's last answers, oldest first, at the levels in seen_
  std::vector<Level> seen_;
};

}  // namespace

const SamplerDef uni_pc_sampler = {
    .name = "uni_pc",
    .summary = "Third-order predictor and corrector, one model call a step, deterministic.",
    .run = [](SamplerRun& run, Tensor x) { return UniPC(run, Variant::Bh1).sample(std::move(x)); },
    .drops_penultimate_sigma = true,
};

const SamplerDef uni_pc_bh2_sampler = {
    .name = "uni_pc_bh2",
    .summary = "uni_pc with the other scaling of its paper, better for few steps.",
    .run = [](SamplerRun& run, Tensor x) { return UniPC(run, Variant::Bh2).sample(std::move(x)); },
    .drops_penultimate_sigma = true,
};

}  // namespace sinter
