#include <cmath>

#include "pipelines/schedules/scheduler.h"
#include "pipelines/schedules/spacing.h"

namespace sinter {

const SchedulerDef exponential_scheduler = {
    .name = "exponential",
    .summary = "Even steps in the logarithm of sigma.",
    .run =
        [](const ModelSampling& model, int steps) {
          double high = std::log(double(model.sigma_max())), low = std::log(double(model.sigma_min()));
          std::vector<float> sigmas;
          for (float log_sigma : even_spacing(float(high), float(low), steps)) sigmas.push_back(std::exp(log_sigma));
          sigmas.push_back(0);
          return sigmas;
        },
};

}  // namespace sinter
