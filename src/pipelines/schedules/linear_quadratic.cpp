#include "pipelines/schedules/scheduler.h"

namespace sinter {
namespace {

constexpr double kNoiseAtBend = 0.025;  ///< share of the way that the linear half goes

/// Falls linearly over the first half of the steps, then as the parabola that continues it with the same slope and reaches 0
/// after the last step.
std::vector<double> levels(int steps) {
  if (steps == 1) return {1, 0};
  int linear = steps / 2, quadratic = steps - linear;
  double slope = kNoiseAtBend / linear;
  double curvature = (linear - kNoiseAtBend * steps) / (double(linear) * quadratic * quadratic);
  std::vector<double> out;
  for (int i = 0; i < steps; ++i) {
    double beyond = i - linear;
    out.push_back(1 - (slope * i + (beyond > 0 ? curvature * beyond * beyond : 0)));
  }
  out.push_back(0);
  return out;
}

}  // namespace

/// The schedule of Mochi 1 and Movie Gen.
const SchedulerDef linear_quadratic_scheduler = {
    .name = "linear_quadratic",
    .summary = "Tiny even steps for half of the run, then a parabola down to 0.",
    .run =
        [](const ModelSampling& model, int steps) {
          std::vector<float> sigmas;
          for (double level : levels(steps)) sigmas.push_back(float(level) * model.sigma_max());
          return sigmas;
        },
};

}  // namespace sinter
