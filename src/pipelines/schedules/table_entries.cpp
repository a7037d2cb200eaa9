#include <algorithm>

#include "pipelines/schedules/scheduler.h"
#include "pipelines/schedules/spacing.h"

namespace sinter {

const SchedulerDef simple_scheduler = {
    .name = "simple",
    .summary = "Entries of the model's table at even distances, counted from the highest.",
    .run =
        [](const ModelSampling& model, int steps) {
          const auto& table = model.sigmas();
          double stride = double(table.size()) / steps;
          std::vector<float> sigmas;
          for (int i = 0; i < steps; ++i) sigmas.push_back(table[table.size() - 1 - size_t(i * stride)]);
          sigmas.push_back(0);
          return sigmas;
        },
};

const SchedulerDef ddim_uniform_scheduler = {
    .name = "ddim_uniform",
    .summary = "Entries of the model's table at a whole distance, counted from the lowest; may give a step more.",
    .run =
        [](const ModelSampling& model, int steps) {
          const auto& table = model.sigmas();
          std::vector<float> sigmas;
          if (nearly_no_noise(table[1]))
            ++steps;
          else
            sigmas.push_back(0);
          size_t stride = std::max<size_t>(table.size() / size_t(steps), 1);
          for (size_t i = 1; i < table.size(); i += stride) sigmas.push_back(table[i]);
          std::ranges::reverse(sigmas);
          return sigmas;
        },
};

}  // namespace sinter
