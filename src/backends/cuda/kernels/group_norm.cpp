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
constexpr int64_t kSector = 16;  // elements that the cache moves together
/// Of a block: what each does once costs more than more rounds do, as long as registers hold them.
constexpr int64_t kThreads[] = {256, 384, 640}, kMostThreads = 640;  // .maxntid in CMakeLists.txt
constexpr int64_t kEnoughBytes = 16 << 10;                           // of a block's map: more blocks would only have to meet
constexpr int64_t kMostVectors = 1 << 24;  // of a picture's slab; far more than fits, and sizes in bytes are int
constexpr int64_t kWarp = 32;
/// Of a block's map: statistics and a row kernel, on all multiprocessors, take no longer.
constexpr int64_t kMostMapBytes = 176 << 10;

int element_type(DType type) { return type == DType::f32 ? device::kF32 : type == DType::f16 ? device::kF16 : device::kBf16; }

int64_t x_stride(const GroupNormCall& c) { return c.of.pixel_stride ? c.of.pixel_stride : c.of.channels; }
int64_t out_stride(const GroupNormCall& c) { return c.out_stride ? c.out_stride : c.of.channels; }

/// The narrowest slab of whole groups and whole vectors; 0: there is none.
int64_t narrowest_slab(const GroupStatsCall& c) {
  const int64_t width = c.channels / c.groups;
  for (int64_t groups = 1; groups <= c.groups; ++groups)
    if (c.groups % groups == 0 && groups * width % kWide == 0) return groups;
  return 0;
}

std::string kernel_name(DType type, bool silu, int held) {
  return fmt::format("group_norm__{}{}_x{}", name(type), silu ? "_silu" : "", held);
}

struct Plan {
  device::GroupNormArguments arguments;
  LaunchShape shape;
  int held = 0;  // vectors of a thread in registers
  int64_t blocks() const { return int64_t(shape.grid.x) * shape.grid.y * shape.grid.z; }
  int64_t map_bytes() const { return int64_t(arguments.chunk) * arguments.vectors * kVectorBytes; }
};

/// What does not depend on who shares the work.
std::optional<device::GroupNormArguments> arguments_of(const GroupNormCall& call) {
  const GroupStatsCall& c = call.of;
  if (c.type != DType::bf16 && c.type != DType::f16) return {};
  if (c.n < 1 || c.pixels < 1 || c.groups < 1 || c.channels % c.groups) return {};
  const bool aligned =
      c.x % kVectorBytes == 0 && call.out % kVectorBytes == 0 && x_stride(call) % kWide == 0 && out_stride(call) % kWide == 0;
  if (!aligned) return {};
  device::GroupNormArguments a;
  a.x = c.x, a.out = call.out, a.gamma = c.gamma, a.beta = c.beta, a.addend = c.addend, a.addend_stride = c.addend_stride;
  a.addend_type = element_type(c.addend_type), a.x_stride = x_stride(call), a.out_stride = out_stride(call);
  a.pixels = int(c.pixels), a.group_width = int(c.channels / c.groups), a.epsilon = float(c.epsilon);
  a.share = float(1 / (double(c.pixels) * double(a.group_width)));
  a.piece_log = std::countr_zero(uint64_t(std::gcd(kWide, int64_t(a.group_width))));
  return a;
}

Plan plan_for(device::GroupNormArguments a, int64_t cluster, const GroupStatsCall& c, const GroupNormLimits& limits) {
  a.chunk = int(divide_up(c.pixels, cluster));
  int64_t rounds = 0;
  for (int64_t threads : kThreads)
    if (threads >= a.vectors && (rounds == 0 || rounds > device::kGroupNormMany))
      rounds = divide_up(int64_t(a.chunk), threads / a.vectors);
  a.lanes = int(divide_up(int64_t(a.chunk), rounds));
  const int held = rounds <= device::kGroupNormFew ? device::kGroupNormFew : device::kGroupNormMany;
  a.rest = int(std::max<int64_t>(rounds - held, 0)) * a.lanes;
  a.blocks = int(cluster);
  // Blocks of a cluster are often put on one multiprocessor, where the device has room for it and others lie idle.
  const int64_t shared = std::max<int64_t>(a.shared_bytes(), cluster > 1 ? limits.shared_bytes / 2 + 1 : 0);
  const LaunchShape shape{.grid = {uint32_t(cluster), uint32_t(c.groups / a.slab_groups), uint32_t(c.n)},
                          .block = {uint32_t(round_up(int64_t(a.lanes) * a.vectors, kWarp))},
                          .shared_bytes = uint32_t(shared),
                          .cluster = uint32_t(cluster)};
  return {a, shape, held};
}

/// For slabs of so many groups: as many blocks as are on the device together, but none for less than is worth it.
std::optional<Plan> plan_of_slabs(device::GroupNormArguments a, int64_t groups, const GroupStatsCall& c,
                                  const GroupNormLimits& limits) {
  const int64_t vectors = groups * a.group_width / kWide;
  if (vectors > kMostThreads || c.pixels * vectors > kMostVectors) return {};
  a.slab_groups = int(groups), a.vectors = int(vectors);
  std::optional<Plan> best;
  for (int cluster = 1; cluster <= GroupNormLimits::kMostCluster; ++cluster) {
    const Plan plan = plan_for(a, cluster, c, limits);
    const bool together = cluster == 1 || plan.shape.grid.y * plan.shape.grid.z <= unsigned(limits.clusters[size_t(cluster - 1)]);
    if (!together || plan.shape.shared_bytes > limits.shared_bytes || plan.map_bytes() > kMostMapBytes) continue;
    best = plan;
    if (plan.map_bytes() <= kEnoughBytes) break;
  }
  return best;
}

/// By which it is known what fits: the one that takes most.
std::string largest_kernel() { return kernel_name(DType::bf16, true, device::kGroupNormMany); }

/// For the narrowest slabs; or for wider ones whose pieces of rows are whole sectors of the cache, where no fewer blocks make
/// them. Half sectors at both ends cost a third of the time.
std::optional<Plan> plan_of(const GroupNormCall& call, const GroupNormLimits& limits) {
  const auto arguments = arguments_of(call);
  const int64_t narrowest = arguments ? narrowest_slab(call.of) : 0;
  if (narrowest == 0) return {};
  std::optional<Plan> best = plan_of_slabs(*arguments, narrowest, call.of, limits);
  int64_t groups = narrowest;
  while (groups * arguments->group_width % kSector && call.of.groups % (2 * groups) == 0) groups *= 2;
  if (groups == narrowest) return best;
  const auto whole = plan_of_slabs(*arguments, groups, call.of, limits);
  return whole && (!best || whole->blocks() >= best->blocks()) ? whole : best;
}

}  // namespace

void GroupNormLimits::begin(Kernels& kernels) {
  if (Kernels::waits_by_itself("group_norm", kernels.context().device())) kernels.begin_kernel(largest_kernel());
}

GroupNormLimits GroupNormLimits::of(Kernels& kernels) {
  const DeviceInfo& device = kernels.context().device();
  GroupNormLimits limits{.shared_bytes = device.shared_bytes, .clusters = {device.multiprocessors}};
  if (!Kernels::waits_by_itself("group_norm", device)) return limits;  // the text for devices without clusters
  const Function& kernel = kernels.function(largest_kernel());
  for (uint32_t cluster = 2; cluster <= kMostCluster; ++cluster)
    limits.clusters[cluster - 1] = kernel.clusters_at_once({.grid = {cluster},
                                                            .block = {uint32_t(kMostThreads)},
                                                            .shared_bytes = uint32_t(device.shared_bytes),
                                                            .cluster = cluster});
  return limits;
}

bool group_norm_fits(const GroupNormCall& call, const GroupNormLimits& limits) { return plan_of(call, limits).has_value(); }

void group_norm(KernelTarget& target, const GroupNormCall& call, const GroupNormLimits& limits) {
  const auto plan = plan_of(call, limits);
  if (!plan)
    fail(Code::Unsupported, "group_norm: {} x {} x {} of {} in {} groups is not one launch here", call.of.n, call.of.pixels,
         call.of.channels, name(call.of.type), call.of.groups);
  target(kernel_name(call.of.type, call.silu, plan->held), plan->shape, plan->arguments);
}

}  // namespace sinter::cuda
