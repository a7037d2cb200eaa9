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
  /// The caller adds the residual, or the bias where it doubles, where the plan's shape has none.
  bool rest_may_follow = false;
  bool allow_tf32 = false;  ///< f32: round inputs to 10 fraction bits
  /// Of a convolution of one pixel, of another picture of the result's size, that is added to the sums: kernels of ours alone do
  /// so (calls/shortcut.h). 0: none. The stride is from pixel to pixel.
  int64_t shortcut_c = 0, shortcut_stride = 0;
  bool shortcut_bias = false;

  int64_t out_size(const ConvAxis& axis) const { return doubles ? 2 * axis.in : axis.out(); }
  double flops() const;
  /// Of numbers, for one result: of the window and of the shortcut.
  int64_t products() const;
  int64_t out_pixels() const;
  std::string text() const;
  bool operator==(const ConvShape&) const = default;
};

struct ConvBuffers {
  DevicePtr in = 0, weights = 0, out = 0;
  DevicePtr bias = 0, residual = 0;
  DevicePtr shortcut_in = 0, shortcut_weights = 0, shortcut_bias = 0;
  /// No kernel of the stream writes the weights: a call may read them before those queued in front of it have ended.
  bool early_weights = false;
};

/// What will run: the library's plan, or a kernel of ours (kernels/tile_window.h, tile_taps.h, split_product.h). Valid as long as
/// its Vendor.
class ConvPlan {
 public:
  ConvPlan(ConvShape shape, std::shared_ptr<const CudnnPlan> library) : shape_(std::move(shape)), library_(std::move(library)) {}
  ConvPlan(Vendor& vendor, ConvShape shape, int tile_form, const Choice& choice)
      : shape_(std::move(shape)), vendor_(&vendor), tile_form_(tile_form), choice_(choice) {}

  /// Without a residual or bias where one may follow and does.
  const ConvShape& shape() const { return shape_; }
  bool is_own() const { return !library_; }
  int tile_form() const { return tile_form_; }  ///< -1: the library's; as own_call.h counts them
  int64_t workspace_bytes() const { return library_ ? library_->workspace_bytes() : 0; }
  const Choice& choice() const { return library_ ? library_->choice() : choice_; }
  std::unique_ptr<BoundCall> bind(const ConvBuffers& buffers, const Workspace& workspace) const;

 private:
  ConvShape shape_;
  std::shared_ptr<const CudnnPlan> library_;
  Vendor* vendor_ = nullptr;
  int tile_form_ = -1;
  Choice choice_;
};

/// The stored choice if there is one; else, with `tune`, the fastest of our kernels and, unless own_conv_should_win(), the
/// library's candidates, which is stored; else one of ours where own_conv_should_do(), or the library's first. None where there
/// is neither. Code::InvalidArgument for sizes that make no sense.
Planned<ConvPlan> plan_conv(Vendor& vendor, const ConvShape& shape, const TuneOn<ConvBuffers>* tune = nullptr);

/// The library's candidates that plan_conv() will time; null where it will not.
Prepared prepare_conv(Vendor& vendor, const ConvShape& shape);

/// Whether a convolution with its residual, of candidates that were timed, beats one without and a pass that adds it. The
/// residual costs 15 % of the arithmetic, as was measured (bench/NOTES.md), the pass three times the result's memory: so it does
/// where the result is large for its arithmetic. Small ones gain or lose a few microseconds. cuDNN compiles each candidate, 0.4 s
/// long.
bool residual_should_be_fused(const ConvShape& shape);

/// Whether cuDNN has an engine for it on a device of that capability, which need not be here; the reason if not.
std::string why_no_conv(const CudnnCalls& calls, const ConvShape& shape, int capability);

}  // namespace sinter::cuda
