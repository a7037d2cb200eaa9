#pragma once
#include <optional>
#include <utility>

#include "backends/cuda/engine.h"
#include "backends/cuda/launches.h"
#include "base/spans.h"

/// What the kinds of steps share: launches*.cpp alone include this.
namespace sinter::cuda {

/// A unit as one call runs it.
struct LaunchBuilder::Instance {
  const Unit& unit;
  const std::string& prefix;
  DevicePtr base;
  const std::vector<DevicePtr>&parameters, &results;
  const UnitLayout& layout;
  const Bindings& bindings;
  size_t step = 0;

  int64_t operator()(const Dim& dim) const { return dim.value(bindings); }
  DevicePtr scratch() const { return base + DevicePtr(layout.scratch[step]); }
};

/// What a step needs for itself while it runs, in bytes.
int64_t scratch_bytes(const LinearStep& step, const Bindings& bindings, const Engine& engine);
int64_t scratch_bytes(const ConvStep& step, const Bindings& bindings, const Engine& engine);
int64_t scratch_bytes(const AttentionStep& step, const Bindings& bindings, const Engine& engine);
int64_t scratch_bytes(const GroupStatsStep& step, const Bindings& bindings, const Engine& engine);
template <class Step>
int64_t scratch_bytes(const Step&, const Bindings&, const Engine&) {
  return 0;
}

inline std::string vendor_call_key(const char* kind, const std::string& shape, bool tune) {
  return fmt::format("{}{} {}", tune ? "" : "untimed ", kind, shape);
}

template <class Shape, class Buffers, class Plan>
Planned<Plan> LaunchBuilder::vendor_plan(const char* kind, const Shape& shape, const Buffers& buffers,
                                         Planner<Shape, Buffers, Plan> planner, bool tune) {
  VendorCall& known = vendor_calls_[vendor_call_key(kind, shape.text(), tune)];
  if (known.made_ahead.valid()) {
    const Span span("wait for what is planned ahead", shape.text());
    known.made_ahead.get();
  }
  if (!known.planned.has_value()) {
    const Span span("choose", shape.text());
    std::optional<TuneOn<Buffers>> on;
    if (tune) on.emplace(engine_.stream(), buffers, tuning_workspace(), std::exchange(known.candidates, nullptr));
    known.planned = planner(engine_.vendor(), shape, on ? &*on : nullptr);
  }
  return std::any_cast<Planned<Plan>>(known.planned);
}

template <class Shape, class Buffers, class Plan>
LaunchBuilder::Added<Plan> LaunchBuilder::add_vendor_call(const char* kind, const Shape& shape, const Buffers& buffers,
                                                          Planner<Shape, Buffers, Plan> planner, Preparer<Shape> preparer,
                                                          bool tune) {
  if (collecting_) {
    auto [at, fresh] = vendor_calls_.try_emplace(vendor_call_key(kind, shape.text(), tune));
    VendorCall& known = at->second;
    if (!fresh) return {};
    if (!tune)
      known.ahead = [this, shape, planner](VendorCall& call) { call.planned = planner(engine_.vendor(), shape, nullptr); };
    else if (preparer)
      known.ahead = [this, shape, preparer](VendorCall& call) { call.candidates = preparer(engine_.vendor(), shape); };
    return {};
  }
  const auto plan = vendor_plan(kind, shape, buffers, planner, tune);
  if (!plan) return {plan.why_none, nullptr};
  std::string detail = shape.text();
  if constexpr (requires { plan->is_own(); }) detail += plan->is_own() ? ", ours" : "";
  if (plan->choice().microseconds > 0) detail += fmt::format(", alone {:.1f} us", plan->choice().microseconds);
  call(kind, std::move(detail), plan->workspace_bytes(), [=, plan = plan.plan, e = &engine_](const Workspace& workspace) {
    return [bound = std::shared_ptr<BoundCall>(plan->bind(buffers, workspace)), e] { bound->launch(e->stream()); };
  });
  return {{}, plan.plan};
}

}  // namespace sinter::cuda
