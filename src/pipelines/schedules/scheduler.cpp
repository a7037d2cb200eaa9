#include "pipelines/schedules/scheduler.h"

#include <string>

#include "base/error.h"

namespace sinter {
namespace {

constexpr const SchedulerDef* kSchedulers[] = {
#define SINTER_SCHEDULER(name) &name##_scheduler,
#include "pipelines/schedules/schedulers.list"
#undef SINTER_SCHEDULER
};

}  // namespace

std::span<const SchedulerDef* const> schedulers() { return kSchedulers; }

const SchedulerDef& find_scheduler(std::string_view name) {
  std::string known;
  for (const SchedulerDef* scheduler : kSchedulers) {
    if (scheduler->name == name) return *scheduler;
    known += (known.empty() ? "" : ", ") + std::string(scheduler->name);
  }
  fail(Code::NotFound, "there is no scheduler {}; choose one of {}", name, known);
}

std::vector<float> scheduler_sigmas(const SchedulerDef& scheduler, const ModelSampling& model, int steps) {
  constexpr int kMostSteps = 10000;
  if (steps < 1 || steps > kMostSteps)
    fail(Code::InvalidArgument, "scheduler {}: the number of steps should be 1 to {}, not {}", scheduler.name, kMostSteps, steps);
  return scheduler.run(model, steps);
}

}  // namespace sinter
