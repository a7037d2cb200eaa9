#include <algorithm>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "pipelines/samplers/step_math.h"
#include "pipelines/schedules/spacing.h"

namespace sinter {
namespace {

float sigma_at(float time) { return std::exp(-time); }
float time_of(float sigma) { return -std::log(sigma); }

/// One step of the singlestep solvers of Lu et al. 2022 ("DPM-Solver", algorithms 1 and 2) in the time -log sigma. Keeps the
/// model's answers, because the adaptive solver takes the same step with two orders.
class SinglestepSolver {
 public:
  SinglestepSolver(SamplerRun& run, Tensor x, float from) : run_(run), x_(std::move(x)), from_(from) {
    noise_ = predict(x_, from);
  }

  Tensor denoised() const { return x_ - noise_ * sigma_at(from_); }

  Tensor first_order(float to) const { return x_ - noise_ * growth(to, to - from_); }

  Tensor second_order(float to, float part) {
    float h = to - from_;
    const Tensor& inner = noise_inside(to, part);
    return x_ - noise_ * growth(to, h) - (inner - noise_) * (sigma_at(to) / (2 * part) * std::expm1(h));
  }

  Tensor third_order(float to) {
    constexpr float kPart1 = 1.0f / 3, kPart2 = 2.0f / 3;
    float h = to - from_;
    const Tensor& first = noise_inside(to, kPart1);
    float at = from_ + kPart2 * h, h2 = kPart2 * h;
    Tensor inside =
        x_ - noise_ * growth(at, h2) - (first - noise_) * (sigma_at(at) * (kPart2 / kPart1) * (std::expm1(h2) / h2 - 1));
    Tensor second = predict(inside, at);
    return x_ - noise_ * growth(to, h) - (second - noise_) * (sigma_at(to) / kPart2 * (std::expm1(h) / h - 1));
  }

 private:
  static float growth(float to, float h) { return sigma_at(to) * std::expm1(h); }

  Tensor predict(const Tensor& x, float time) {
    float sigma = sigma_at(time);
    return slope(x, sigma, run_.denoise(x, sigma));
  }
  /// The predicted noise a part of the way to `to`.
  const Tensor& noise_inside(float to, float part) {
    if (!inner_) {
      float h = part * (to - from_), at = from_ + h;
      inner_ = predict(x_ - noise_ * growth(at, h), at);
    }
    return *inner_;
  }

  SamplerRun& run_;
  Tensor x_;
  float from_;
  Tensor noise_;
  std::optional<Tensor> inner_;
};

/// The last level above 0: a logarithm must exist.
float lowest_sigma(const SamplerRun& run) {
  float last = run.sigmas.back();
  return last == 0 ? run.sigmas[run.sigmas.size() - 2] : last;
}

/// Spends as many model calls as the schedule has steps, three a step while they last.
Tensor run_fast(SamplerRun& run, Tensor x) {
  int calls = run.steps(), steps = calls / 3 + 1;
  std::vector<int> orders(size_t(steps), 3);
  if (calls % 3 == 0) {
    orders[size_t(steps) - 1] = 1;
    if (steps > 1) orders[size_t(steps) - 2] = 2;
  } else {
    orders.back() = calls % 3;
  }
  auto times = even_spacing(time_of(run.sigmas.front()), time_of(lowest_sigma(run)), steps + 1);
  for (int i = 0; i < steps; ++i) {
    float from = times[size_t(i)], to = times[size_t(i) + 1];
    SinglestepSolver solver(run, x, from);
    run.on_step(i, x, solver.denoised(), sigma_at(from));
    int order = orders[size_t(i)];
    x = order == 1 ? solver.first_order(to) : order == 2 ? solver.second_order(to, 0.5f) : solver.third_order(to);
    run.noise(sigma_at(from), sigma_at(to));  // of no effect without eta, but the stream of noise goes on
  }
  return x;
}

/// Step lengths from the error of the step before (the integral part of a PID controller).
class StepLength {
 public:
  double length = 0.05;

  /// Whether the step that had this error stands; sets the next length.
  bool accept(double error) {
    constexpr double kOrder = 3, kSafety = 0.81, kSmallest = 1e-8;
    double factor = 1 + std::atan(std::pow(1 / (error + kSmallest), 1 / kOrder) - 1);
    length *= factor;
    return factor >= kSafety;
  }
};

/// The difference of two solutions in units of what may differ, as a root mean square.
double scaled_error(const Tensor& low, const Tensor& high, const Tensor& before) {
  constexpr float kAbsolute = 0.0078f, kRelative = 0.05f;
  auto a = low.f32(), b = high.f32(), c = before.f32();
  double squares = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    float allowed = std::max(kAbsolute, kRelative * std::max(std::abs(a[i]), std::abs(c[i])));
    double scaled = (a[i] - b[i]) / allowed;
    squares += scaled * scaled;
  }
  return std::sqrt(squares / double(a.size()));
}

/// Chooses its own steps between the first and the last level; reports each after it was tried.
Tensor run_adaptive(SamplerRun& run, Tensor x) {
  constexpr int kMostTries = 10000;
  float at = time_of(run.sigmas.front()), end = time_of(lowest_sigma(run));
  StepLength step;
  Tensor before = x;
  for (int tries = 0; at < end - 1e-5f; ++tries) {
    if (tries == kMostTries) fail(Code::Unsupported, "dpm_adaptive: no end after {} steps; use another sampler", kMostTries);
    float to = std::min(end, at + float(step.length));
    SinglestepSolver solver(run, x, at);
    Tensor low = solver.second_order(to, 1.0f / 3), high = solver.third_order(to);
    if (step.accept(scaled_error(low, high, before))) {
      run.noise(sigma_at(at), sigma_at(to));  // of no effect without eta, but the stream of noise goes on
      before = low;
      x = high;
      at = to;
    }
    run.on_step(tries, x, solver.denoised(), sigma_at(at));
  }
  return x;
}

}  // namespace

const SamplerDef dpm_fast_sampler = {
    .name = "dpm_fast",
    .summary = "DPM-Solver of third order on even steps in log sigma; as many model calls as steps.",
    .run = run_fast,
};

const SamplerDef dpm_adaptive_sampler = {
    .name = "dpm_adaptive",
    .summary = "DPM-Solver of third order that chooses its own steps; ignores how many were asked for.",
    .run = run_adaptive,
};

}  // namespace sinter
