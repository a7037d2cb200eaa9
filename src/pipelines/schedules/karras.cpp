#include <cmath>

#include "pipelines/schedules/scheduler.h"
#include "pipelines/schedules/spacing.h"

namespace sinter {

/// Karras et al. 2022, equation 5.
const SchedulerDef karras_scheduler = {
    .name = "karras",
    .summary = "Even steps in the seventh root of sigma: many steps where there is little noise.",
    .run =
        [](const ModelSampling& model, int steps) {
          constexpr double kRho = 7;
          double high = std::pow(double(model.sigma_max()), 1 / kRho), low = std::pow(double(model.sigma_min()), 1 / kRho);
          std::vector<float> sigmas;
          for (float at : even_spacing(0, 1, steps))
            sigmas.push_back(std::pow(float(high) + at * float(low - high), float(kRho)));
          sigmas.push_back(0);
          return sigmas;
        },
};

}  // namespace sinter
