#pragma once
#include "backends/cuda/calls/cudnn.h"
#include "backends/cuda/calls/vendor.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// One spatial axis of a convolution.
struct ConvAxis {
  int64_t in = 0;
  int64_t kernel = 3, stride = 1, pad_before = 1, pad_after = 1, dilation = 1;
  int64_t out() const { return (in + pad_before + pad_after - dilation * (kernel - 1) - 1) / stride + 1; }
  bool operator==(const ConvAxis&) const = default;
};

/// out[n, y, x, o] = silu?(sum over window and c of in[n, ..., c] * weights[o, ..., c] + bias[o] + residual[n, y, x, o]),
/// everything channels-last: weights are [out_c, kernel..., c]. Two axes (h, w) or three (d, h, w). Convolutions of one pixel
/// with stride 1 are linear layers: use those.
struct ConvShape {
  int64_t n = 1, c = 0, out_c = 0;
  std::vector<ConvAxis> axes;
  /// The result is twice as large along all axes, which have windows of 4, strides of 2 and paddings of 1: the other way round,
  /// pixel i of `in` is added to the result's 2 i - 1 to 2 i + 2, times weights that are [c, kernel..., out_c].
  bool doubles = false;
  DType type = DType::bf16;  ///< of in, weights, bias, residual and out; sums are f32
  bool bias = false;
  /// These two make cuDNN compile a kernel of its own, which may be slower than a plain one and a separate pass. So does a bias
  /// where it doubles: with it one takes twice as long as without.
  bool residual = false, silu = false;
  bool allow_tf32 = false;  ///< f32: round inputs to 10 fraction bits

  int64_t out_size(const ConvAxis& axis) const { return doubles ? 2 * axis.in : axis.out(); }
  double flops() const;
  int64_t out_pixels() const;
  std::string text() const;
  bool operator==(const ConvShape&) const = default;
};

struct ConvBuffers {
  DevicePtr in = 0, weights = 0, out = 0;
  DevicePtr bias = 0, residual = 0;
};

class ConvPlan {
 public:
  ConvPlan(ConvShape shape, std::shared_ptr<const CudnnPlan> plan) : shape_(std::move(shape)), plan_(std::move(plan)) {}
  const ConvShape& shape() const { return shape_; }
  int64_t workspace_bytes() const { return plan_->workspace_bytes(); }
  const Choice& choice() const { return plan_->choice(); }
  std::unique_ptr<BoundCall> bind(const ConvBuffers& buffers, const Workspace& workspace) const;

 private:
  ConvShape shape_;
  std::shared_ptr<const CudnnPlan> plan_;
};

/// None where cuDNN has no engine. Code::InvalidArgument for sizes that make no sense.
Planned<ConvPlan> plan_conv(Vendor& vendor, const ConvShape& shape, const TuneOn<ConvBuffers>* tune = nullptr);

/// The candidates that plan_conv() will time; null where it will not.
Prepared prepare_conv(Vendor& vendor, const ConvShape& shape);

/// Whether a convolution with its residual, of candidates that were timed, beats one without and a pass that adds it. The
/// residual costs 15 % of the arithmetic, as was measured (bench/NOTES.md), the pass three times the result's memory: so it does
/// where the result is large for its arithmetic. Small ones gain or lose a few microseconds. cuDNN compiles each candidate, 0.4 s
/// long.
bool residual_should_be_fused(const ConvShape& shape);

/// Whether cuDNN has an engine for it on a device of that capability, which need not be here; the reason if not.
std::string why_no_conv(const CudnnCalls& calls, const ConvShape& shape, int capability);

}  // namespace sinter::cuda
