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
constexpr int64_t kThreads = 640;              // whole pixels of 80, 160 and 320 bytes; .maxntid in CMakeLists.txt
constexpr int64_t kMostCluster = 8;            // that every device with clusters can place
constexpr int64_t kLeastBlockBytes = 8 << 10;  // of the map: less is not worth meeting others for
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
};

std::optional<Plan> plan_of(const GroupNormCall& call, const GroupNormLimits& limits) {
  const GroupStatsCall& c = call.of;
  if (!(c.type == DType::bf16 || c.type == DType::f16) || c.n < 1 || c.pixels < 1 || c.groups < 1 || c.channels % c.groups)
    return {};
  const bool aligned =
      c.x % kVectorBytes == 0 && call.out % kVectorBytes == 0 && x_stride(call) % kWide == 0 && out_stride(call) % kWide == 0;
  const int64_t slab_groups = groups_of_slab(c);
  if (!aligned || slab_groups == 0) return {};
  Plan p;
  device::GroupNormArguments& a = p.arguments;
  a.x = c.x, a.out = call.out, a.gamma = c.gamma, a.beta = c.beta, a.addend = c.addend, a.addend_stride = c.addend_stride;
  a.addend_type = element_type(c.addend_type), a.x_stride = x_stride(call), a.out_stride = out_stride(call);
  a.pixels = int(c.pixels), a.group_width = int(c.channels / c.groups), a.epsilon = float(c.epsilon);
  a.slab_groups = int(slab_groups), a.vectors = int(slab_groups * a.group_width / kWide);
  a.piece_log = std::countr_zero(uint64_t(std::gcd(kWide, int64_t(a.group_width))));
  const int64_t slabs = c.groups / slab_groups;
  // As many blocks as there are multiprocessors, and more only where the map does not fit.
  for (int64_t cluster = 1; cluster <= limits.cluster; cluster *= 2) {
    a.chunk = int(divide_up(c.pixels, cluster));
    a.lanes = int(std::clamp<int64_t>(kThreads / a.vectors, 1, a.chunk));
    const int64_t threads = round_up(int64_t(a.lanes) * a.vectors, kWarp);
    a.parts =
        int(std::clamp<int64_t>(threads / kWarp / slab_groups, 1, std::min({kMostParts, kWarp / cluster, int64_t(a.lanes)})));
    p.shape = {.grid = {uint32_t(cluster), uint32_t(slabs), uint32_t(c.n)},
               .block = {uint32_t(threads)},
               .shared_bytes = uint32_t(a.shared_bytes()),
               .cluster = uint32_t(cluster)};
    const bool fits = a.shared_bytes() <= limits.shared_bytes;
    const bool enough =
        2 * cluster * slabs * c.n > limits.multiprocessors || a.chunk * a.vectors * kVectorBytes <= kLeastBlockBytes;
    if (fits && (enough || 2 * cluster > limits.cluster)) return p;
  }
  return {};
}

}  // namespace

GroupNormLimits GroupNormLimits::of(const DeviceInfo& device) {
  const bool clusters = Kernels::waits_by_itself("group_norm", device);  // then the text is that for 9.0
  return {device.multiprocessors, device.shared_bytes, clusters ? int(kMostCluster) : 1};
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
