#include "backends/cuda/group_norm_steps.h"

#include <array>

#include "compiler/lowering/lower.h"
#include "graph/ops.h"

namespace sinter::cuda {
namespace {

/// The row kernel that a group norm leaves behind its statistics.
Digest normalising_kernel(DType type, bool silu_too) {
  constexpr int64_t kChannels = 32;
  Graph graph, legal;
  const Dim side = Dim::symbol("group_norm_side");
  Value gamma = graph.weight("gamma", {type, {kChannels}}), beta = graph.weight("beta", {type, {kChannels}});
  Value y = group_norm(graph.input("x", {type, {Dim::symbol("group_norm_batch"), side, side, kChannels}}), gamma, beta, 4, 1e-5);
  graph.output("y", silu_too ? silu(y) : y);
  const LowerOptions options{.vendor = true};
  legalise(graph, legal, options);
  const Program program = lower(legal, options);
  SINTER_ASSERT(program.kernels.size() == 1);
  return program.kernels[0].digest();
}

/// Whether this is such a kernel, with SiLU or without; nothing for any other kernel.
std::optional<bool> normalises(const RowKernel& kernel, DType type) {
  static const std::array digests = {normalising_kernel(DType::bf16, false), normalising_kernel(DType::bf16, true),
                                     normalising_kernel(DType::f16, false), normalising_kernel(DType::f16, true)};
  if (type != DType::bf16 && type != DType::f16) return {};
  const size_t first = type == DType::bf16 ? 0 : 2;
  const Digest digest = kernel.digest();
  if (digest == digests[first]) return false;
  if (digest == digests[first + 1]) return true;
  return {};
}

}  // namespace

std::optional<GroupNormSteps> group_norm_steps(const Program& program, size_t at, const Bindings& bindings) {
  const auto& stats = std::get<GroupStatsStep>(program.steps[at]);
  const RowStep* row = at + 1 < program.steps.size() ? std::get_if<RowStep>(&program.steps[at + 1]) : nullptr;
  if (!row) return {};
  const KernelUse& use = row->use;
  const auto silu = normalises(program.kernels[size_t(use.kernel)], stats.type);
  if (!silu) return {};
  auto size = [&](const Dim& dim) { return dim.value(bindings); };
  const int64_t n = size(stats.n), pixels = size(stats.pixels), stride = size(stats.pixel_stride), channels = stats.channels;
  auto is = [&](const OperandUse& o, const BufferRef& buffer, int64_t offset, int64_t picture, int64_t pixel) {
    return o.buffer == buffer && size(o.offset) == offset && (n == 1 || size(o.strides[0]) == picture) &&
           (pixels == 1 || size(o.strides[1]) == pixel);
  };
  const OperandUse &x = use.operands[0], &scale = use.operands[1], &shift = use.operands[2], &out = use.operands[3];
  const int64_t first = size(stats.out.offset), out_stride = size(out.strides[1]);
  const bool fits = size(use.columns) == channels && size(use.outer[0]) == n && size(use.outer[1]) == pixels &&
                    is(x, stats.x.buffer, size(stats.x.offset), pixels * stride, stride) &&
                    is(scale, stats.out.buffer, first, 2 * channels, 0) &&
                    is(shift, stats.out.buffer, first + channels, 2 * channels, 0) &&
                    is(out, out.buffer, size(out.offset), pixels * out_stride, out_stride);
  const bool alone = stats.out.buffer.space == BufferRef::temporary &&
                     program.temporaries[size_t(stats.out.buffer.index)].last_step == int32_t(at) + 1;
  if (!fits || !alone) return {};
  return GroupNormSteps{*silu, {out.buffer, out.offset}, out_stride};
}

}  // namespace sinter::cuda
