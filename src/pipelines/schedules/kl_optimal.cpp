#include <cmath>

#include "pipelines/schedules/scheduler.h"

namespace sinter {

/// Sabour et al. 2024, "Align Your Steps", equation 16. One step goes straight from the highest level to 0: the formula itself
/// would divide 0 by 0.
const SchedulerDef kl_optimal_scheduler = {
    .name = "kl_optimal",
    .summary = "Even steps in the arc tangent of sigma.",
    .run =
        [](const ModelSampling& model, int steps) {
          double low = std::atan(double(model.sigma_min())), high = std::atan(double(model.sigma_max()));
          std::vector<float> sigmas;
          for (int i = 0; i < steps; ++i) {
            float at = steps > 1 ? float(i) / float(steps - 1) : 0.0f;
            sigmas.push_back(std::tan(at * float(low) + (1 - at) * float(high)));
          }
          sigmas.push_back(0);
          return sigmas;
        },
};

}  // namespace sinter
