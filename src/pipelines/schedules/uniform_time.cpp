#include "pipelines/schedules/scheduler.h"
#include "pipelines/schedules/spacing.h"

namespace sinter {
namespace {

std::vector<float> sigmas_at(const ModelSampling& model, const std::vector<float>& timesteps) {
  std::vector<float> sigmas;
  for (float timestep : timesteps) sigmas.push_back(model.sigma(timestep));
  return sigmas;
}

std::vector<float> normal_sigmas(const ModelSampling& model, int steps) {
  float first = model.timestep(model.sigma_max()), last = model.timestep(model.sigma_min());
  if (nearly_no_noise(model.sigma(last))) return sigmas_at(model, even_spacing(first, last, steps + 1));
  auto sigmas = sigmas_at(model, even_spacing(first, last, steps));
  sigmas.push_back(0);
  return sigmas;
}

std::vector<float> sgm_uniform_sigmas(const ModelSampling& model, int steps) {
  float first = model.timestep(model.sigma_max()), last = model.timestep(model.sigma_min());
  auto sigmas = sigmas_at(model, even_spacing(first, last, steps + 1));
  sigmas.back() = 0;
  return sigmas;
}

}  // namespace

const SchedulerDef normal_scheduler = {
    .name = "normal",
    .summary = "Even steps in the model's time, from its highest to its lowest noise level, then 0.",
    .run = normal_sigmas,
};

const SchedulerDef sgm_uniform_scheduler = {
    .name = "sgm_uniform",
    .summary = "Even steps in the model's time, where the last step takes the place of the lowest noise level.",
    .run = sgm_uniform_sigmas,
};

}  // namespace sinter
