#include "backends/cuda/kernels/group_norm.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <optional>

#include "backends/cuda/kernels/element_types.h"
#include "backends/cuda/kernels/group_norm_arguments.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kWide = device::kGroupNormWide, kVectorBytes = 16;
constexpr int64_t kThreads = 640;           // 128 rows of 80 bytes; 960 took up to 30 % longer. .maxntid in CMakeLists.txt
constexpr int64_t kEnoughBytes = 16 << 10;  // of a block's map: more blocks would only have to meet
constexpr int64_t kMostVectors = 1 << 24;   // of a picture's slab; far more than fits, and sizes in bytes are int
constexpr int64_t kWarp = 32, kMostParts = 4;

int element_type(DType type) { return type == DType::f32 ? device::kF32 : type == DType::f16 ? device::kF16 : device::kBf16; }

int64_t x_stride(const GroupNormCall& c) { return c.of.pixel_stride ? c.of.pixel_stride : c.of.channels; }
int64_t out_stride(const GroupNormCall& c) { return c.out_stride ? c.out_stride : c.of.channels; }

/// The narrowest slab of whole groups and whole vectors; 0: there is none.
int64_t groups_of_slab(const GroupStatsCall& c) {
  const int64_t width = c.channels / c.groups;
  for (int64_t groups = 1; groups <= c.groups; ++groups)
    if (c.groups % groups == 0 && groups * width % kWide == 0) return groups * width / kWide <= kThreads ? groups : 0;
  return 0;
}

struct Plan {
  device::GroupNormArguments arguments;
  LaunchShape shape;
  int64_t map_bytes() const { return arguments.parts_at(); }
};

/// What does not depend on how many blocks share a group.
std::optional<device::GroupNormArguments> arguments_of(const GroupNormCall& call) {
  const GroupStatsCall& c = call.of;
  if (c.type != DType::bf16 && c.type != DType::f16) return {};
  if (c.n < 1 || c.pixels < 1 || c.groups < 1 || c.channels % c.groups) return {};
  const bool aligned =
      c.x % kVectorBytes == 0 && call.out % kVectorBytes == 0 && x_stride(call) % kWide == 0 && out_stride(call) % kWide == 0;
  const int64_t slab_groups = groups_of_slab(c);
  if (!aligned || slab_groups == 0 || c.pixels * slab_groups * (c.channels / c.groups) / kWide > kMostVectors) return {};
  device::GroupNormArguments a;
  a.x = c.x, a.out = call.out, a.gamma = c.gamma, a.beta = c.beta, a.addend = c.addend, a.addend_stride = c.addend_stride;
  a.addend_type = element_type(c.addend_type), a.x_stride = x_stride(call), a.out_stride = out_stride(call);
  a.pixels = int(c.pixels), a.group_width = int(c.channels / c.groups), a.epsilon = float(c.epsilon);
  a.slab_groups = int(slab_groups), a.vectors = int(slab_groups * a.group_width / kWide);
  a.piece_log = std::countr_zero(uint64_t(std::gcd(kWide, int64_t(a.group_width))));
  return a;
}

Plan plan_for(device::GroupNormArguments a, int64_t cluster, const GroupStatsCall& c, const GroupNormLimits& limits) {
  SINTER_ASSERT(a.vectors > 0 && a.vectors <= kThreads);
  a.chunk = int(divide_up(c.pixels, cluster));
  const int64_t rounds = divide_up(a.chunk, kThreads / a.vectors);
  a.lanes = int(divide_up(a.chunk, rounds));
  const int64_t threads = round_up(int64_t(a.lanes) * a.vectors, kWarp);
  const int64_t most_parts = std::min({kMostParts, kWarp / cluster, int64_t(a.lanes)});
  a.parts = int(std::clamp<int64_t>(threads / kWarp / a.slab_groups, 1, most_parts));
  // Blocks of a cluster are often put on one multiprocessor, where the device has room for it and others lie idle.
  const int64_t shared = std::max<int64_t>(a.shared_bytes(), cluster > 1 ? limits.shared_bytes / 2 + 1 : 0);
  const LaunchShape shape{.grid = {uint32_t(cluster), uint32_t(c.groups / a.slab_groups), uint32_t(c.n)},
                          .block = {uint32_t(threads)},
                          .shared_bytes = uint32_t(shared),
                          .cluster = uint32_t(cluster)};
  return {a, shape};
}

/// As many blocks as are on the device together, but none for less than is worth it.
std::optional<Plan> plan_of(const GroupNormCall& call, const GroupNormLimits& limits) {
  const auto arguments = arguments_of(call);
  if (!arguments) return {};
  std::optional<Plan> best;
  for (int cluster = 1; cluster <= GroupNormLimits::kMostCluster; ++cluster) {
    const Plan plan = plan_for(*arguments, cluster, call.of, limits);
    const int64_t clusters = int64_t(plan.shape.grid.y) * plan.shape.grid.z;
    const bool together = cluster == 1 || clusters <= limits.clusters[size_t(cluster - 1)];
    if (!together || plan.shape.shared_bytes > limits.shared_bytes) continue;
    best = plan;
    if (plan.map_bytes() <= kEnoughBytes) break;
  }
  return best;
}

}  // namespace

GroupNormLimits GroupNormLimits::of(Kernels& kernels) {
  const DeviceInfo& device = kernels.context().device();
  GroupNormLimits limits{.shared_bytes = device.shared_bytes, .clusters = {device.multiprocessors}};
  if (!Kernels::waits_by_itself("group_norm", device)) return limits;  // the text for devices without clusters
  const Function& kernel = kernels.function("group_norm__bf16_silu");
  for (uint32_t cluster = 2; cluster <= kMostCluster; ++cluster)
    limits.clusters[cluster - 1] = kernel.clusters_at_once(
        {.grid = {cluster}, .block = {uint32_t(kThreads)}, .shared_bytes = uint32_t(device.shared_bytes), .cluster = cluster});
  return limits;
}

bool group_norm_fits(const GroupNormCall& call, const GroupNormLimits& limits) { return plan_of(call, limits).has_value(); }

void group_norm(KernelTarget& target, const GroupNormCall& call, const GroupNormLimits& limits) {
  const auto plan = plan_of(call, limits);
  if (!plan)
    fail(Code::Unsupported, "group_norm: {} x {} x {} of {} in {} groups is not one launch here", call.of.n, call.of.pixels,
         call.of.channels, name(call.of.type), call.of.groups);
  target(fmt::format("group_norm__{}{}", name(call.of.type), call.silu ? "_silu" : ""), plan->shape, plan->arguments);
}

}  // namespace sinter::cuda
