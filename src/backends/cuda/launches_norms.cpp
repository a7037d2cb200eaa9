#include "backends/cuda/group_norm_steps.h"
#include "backends/cuda/kernels/group_norm.h"
#include "backends/cuda/kernels/group_stats.h"
#include "backends/cuda/launch_steps.h"

namespace sinter::cuda {
namespace {

GroupStatsCall call_of(const GroupStatsStep& step, const Bindings& bindings) {
  GroupStatsCall call;
  call.n = step.n.value(bindings), call.pixels = step.pixels.value(bindings);
  call.channels = step.channels, call.groups = step.groups;
  call.addend_type = step.addend_type, call.type = step.type, call.pixel_stride = step.pixel_stride.value(bindings),
  call.epsilon = step.epsilon;
  return call;
}

}  // namespace

int64_t scratch_bytes(const GroupStatsStep& step, const Bindings& bindings, const Engine& engine) {
  return group_stats_workspace_bytes(call_of(step, bindings), engine.context().device().multiprocessors);
}

GroupStatsCall LaunchBuilder::group_stats_call(const Instance& in, const GroupStatsStep& step) {
  GroupStatsCall call = call_of(step, in.bindings);
  call.x = address(in, step.x, step.type);
  call.gamma = address(in, step.gamma, DType::f32), call.beta = address(in, step.beta, DType::f32);
  if (step.adds) call.addend = address(in, step.addend, step.addend_type), call.addend_stride = in(step.addend_stride);
  return call;
}

bool LaunchBuilder::add_group_norm(const Instance& in) {
  const auto* step = std::get_if<GroupStatsStep>(&in.unit.program.steps[in.step]);
  const auto steps = step ? group_norm_steps(in.unit.program, in.step, in.bindings) : std::nullopt;
  if (!steps) return false;
  GroupNormCall call{.of = group_stats_call(in, *step), .silu = steps->silu};
  call.out = address(in, steps->out, step->type), call.out_stride = steps->out_stride;
  const GroupStatsCall& of = call.of;
  // What only the statistics read may lie where the row kernel writes: its memory was free again.
  const DevicePtr end = call.out + DevicePtr(of.n * of.pixels * call.out_stride * byte_size(of.type));
  auto apart = [&](DevicePtr from, int64_t bytes) { return from + DevicePtr(bytes) <= call.out || end <= from; };
  const bool parameters_stay =
      apart(of.gamma, of.channels * 4) && apart(of.beta, of.channels * 4) &&
      (!step->adds || apart(of.addend, ((of.n - 1) * of.addend_stride + of.channels) * byte_size(of.addend_type)));
  if (!group_norm_limits_) group_norm_limits_ = GroupNormLimits::of(engine_.kernels());
  const GroupNormLimits limits = *group_norm_limits_;
  if (!parameters_stay || !group_norm_fits(call, limits)) return false;
  std::string detail =
      fmt::format("{} x {} x {}, {} groups{}", of.n, of.pixels, of.channels, of.groups, call.silu ? ", SiLU" : "");
  launch_own("group_norm", std::move(detail), [=](KernelTarget& target) { group_norm(target, call, limits); });
  return true;
}

void LaunchBuilder::add_step(const Instance& in, const GroupStatsStep& step) {
  GroupStatsCall call = group_stats_call(in, step);
  call.out = address(in, step.out, DType::f32), call.workspace = in.scratch();
  call.counters = engine_.group_stats_counters();
  std::string detail = fmt::format("{} x {} x {}, {} groups", call.n, call.pixels, call.channels, call.groups);
  launch_own("group_stats", std::move(detail), [=](KernelTarget& target) { group_stats(target, call); });
}

}  // namespace sinter::cuda
