#include <cmath>

#include "pipelines/schedules/scheduler.h"

namespace sinter {
namespace {

constexpr double kAlpha = 0.6, kBeta = 0.6;

/// The continued fraction of the incomplete beta function, evaluated by Lentz's method (DLMF 8.17.22); for x < (a+1)/(a+b+2).
double beta_fraction(double a, double b, double x) {
  constexpr double kTiny = 1e-300;
  auto not_zero = [](double value) { return std::abs(value) < kTiny ? kTiny : value; };
  double c = 1, d = 1 / not_zero(1 - (a + b) * x / (a + 1)), value = d;
  for (int m = 1; m < 1000; ++m) {
    double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double before = value;
    for (double term : {even, odd}) {
      d = 1 / not_zero(1 + term * d);
      c = not_zero(1 + term / c);
      value *= c * d;
    }
    if (std::abs(value - before) <= 1e-16 * std::abs(value)) break;
  }
  return value;
}

/// The share of a beta distribution that lies below x.
double beta_share_below(double a, double b, double x) {
  if (x <= 0 || x >= 1) return x <= 0 ? 0 : 1;
  double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x));
  if (x < (a + 1) / (a + b + 2)) return front * beta_fraction(a, b, x) / a;
  return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

/// The x with this share below it, by halving: the table index picked with it must not depend on a loose tolerance.
double beta_quantile(double a, double b, double share) {
  double low = 0, high = 1;
  while (true) {
    double middle = 0.5 * (low + high);
    if (middle == low || middle == high) return middle;
    (beta_share_below(a, b, middle) < share ? low : high) = middle;
  }
}

}  // namespace

/// Lee et al. 2024, "Beta Sampling is All You Need".
const SchedulerDef beta_scheduler = {
    .name = "beta",
    .summary = "Table entries at quantiles of a beta distribution: many steps at both ends, few between.",
    .run =
        [](const ModelSampling& model, int steps) {
          const auto& table = model.sigmas();
          std::vector<float> sigmas;
          double last = -1;
          for (int i = 0; i < steps; ++i) {
            double share = 1 - i * (1.0 / steps);
            double index = share >= 1 ? 1.0 : beta_quantile(kAlpha, kBeta, share);
            index = std::nearbyint(index * double(table.size() - 1));
            if (index != last) sigmas.push_back(table[size_t(index)]);
            last = index;
          }
          sigmas.push_back(0);
          return sigmas;
        },
};

}  // namespace sinter
