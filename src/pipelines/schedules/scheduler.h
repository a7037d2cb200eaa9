#pragma once
#include <span>
#include <string_view>
#include <vector>

#include "pipelines/schedules/model_sampling.h"

namespace sinter {

/// A way to choose the noise levels of a run.
struct SchedulerDef {
  std::string_view name;
  std::string_view summary;
  /// Falling sigmas, the last one 0: steps+1 of them (ddim_uniform and beta may give more or fewer). steps is at least 1.
  std::vector<float> (*run)(const ModelSampling& model, int steps);
};

/// All schedulers, sorted by name.
std::span<const SchedulerDef* const> schedulers();
/// Code::NotFound for a name that is not in the list.
const SchedulerDef& find_scheduler(std::string_view name);

/// scheduler.run after checking that steps is between 1 and 10000.
std::vector<float> scheduler_sigmas(const SchedulerDef& scheduler, const ModelSampling& model, int steps);

#define SINTER_SCHEDULER(name) extern const SchedulerDef name##_scheduler;
#include "pipelines/schedules/schedulers.list"
#undef SINTER_SCHEDULER

}  // namespace sinter
