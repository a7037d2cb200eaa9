#pragma once
#include "backends/cuda/calls/cudnn.h"
#include "backends/cuda/calls/vendor.h"
#include "backends/cuda/head_strides.h"
#include "backends/cuda/kernels/attention.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// What is added to the scores: bias[b * stride.b + h * stride.h + query * stride.t + key]. A stride of 0 is the same for all.
struct AttentionBias {
  DType type = DType::f32;  ///< f32, or that of q
  HeadStrides strides;
  bool operator==(const AttentionBias&) const = default;
};

/// out = softmax(scale * q k^T + bias) v for each batch entry and head. Nothing is copied: each tensor has its own strides, so q,
/// k and v may be parts of one fused product and out a part of a wider buffer.
struct AttentionShape {
  int64_t b = 1, heads = 1, queries = 0, keys = 0, d = 0;
  DType type = DType::bf16;  ///< of q, k, v and out; f32 has a slow engine
  HeadStrides q, k, v, out;
  std::optional<AttentionBias> bias;
  bool causal = false;      ///< query i sees keys 0..i
  bool allow_tf32 = false;  ///< f32: round inputs to 10 fraction bits

  double flops() const { return 4.0 * double(b) * double(heads) * double(queries) * double(keys) * double(d); }
  std::string text() const;
  bool operator==(const AttentionShape&) const = default;
};

struct AttentionBuffers {
  DevicePtr q = 0, k = 0, v = 0, out = 0;
  DevicePtr bias = 0;
  float scale = 1;  ///< no part of the plan
};

/// The same for kernels of ours, which take any stride of a bias's keys.
AttentionCall own_call(const AttentionShape& shape, const AttentionBuffers& buffers = {});

/// Kernels of ours that compete with cuDNN's: two for few keys (kernels/resident_attention.h; FewTiles), one for any number of
/// them (Tiles; these two: kernels/tile_attention.h). Stored choices have their numbers.
enum class OwnAttention { Resident, Tiles, FewTiles };

/// cuDNN's, or ours.
class AttentionPlan {
 public:
  AttentionPlan(const AttentionShape& shape, std::shared_ptr<const CudnnPlan> plan)
      : shape_(shape), plan_(std::move(plan)), choice_(plan_->choice()) {}
  /// Ours; begins to compile it, on any thread.
  AttentionPlan(const AttentionShape& shape, OwnAttention own, Kernels& kernels, const Choice& choice);
  const AttentionShape& shape() const { return shape_; }
  int64_t workspace_bytes() const { return plan_ ? plan_->workspace_bytes() : 0; }
  const Choice& choice() const { return choice_; }
  bool is_own() const { return !plan_; }
  OwnAttention own() const { return own_; }  ///< where it is
  std::unique_ptr<BoundCall> bind(const AttentionBuffers& buffers, const Workspace& workspace) const;

 private:
  AttentionShape shape_;
  std::shared_ptr<const CudnnPlan> plan_;
  Kernels* kernels_ = nullptr;
  OwnAttention own_ = OwnAttention::Resident;
  Choice choice_;
};

/// Why this kernel of ours does not make it; empty where it does.
std::string why_no_own_attention(const AttentionShape& shape, OwnAttention own, const DeviceInfo& device);
/// Why none does.
std::string why_no_own_attention(const AttentionShape& shape, const DeviceInfo& device);
/// Those that may be the fastest: the first is the one that is taken untimed.
std::vector<OwnAttention> own_attentions(const AttentionShape& shape, const DeviceInfo& device);
/// Whether it should be faster than cuDNN's.
bool own_attention_should_win(const AttentionShape& shape, const DeviceInfo& device);
/// The module of ours that attention of so wide heads among all tokens of pictures will need; empty: none.
std::string self_attention_module(DType type, int64_t d, const DeviceInfo& device);

/// The stored choice if there is one; else ours where own_attention_should_win() or, with other numbers of tokens, timing took
/// ours each time (with `tune` the fastest of ours); else, with `tune`, the fastest of cuDNN's fastest and ours. What was timed
/// is stored. Else ours where cuDNN has none, else cuDNN's first. None where neither makes it; strides and addresses must be
/// multiples of 16 bytes. cuDNN's first plan of its kind takes 0.5 s or more to compile, a stored one 2 ms.
Planned<AttentionPlan> plan_attention(Vendor& vendor, const AttentionShape& shape,
                                      const TuneOn<AttentionBuffers>* tune = nullptr);

/// The library's candidates that plan_attention() will time; null where it will not.
Prepared prepare_attention(Vendor& vendor, const AttentionShape& shape);

/// Whether cuDNN has an engine for it on a device of that capability, which need not be here; the reason if not.
std::string why_no_attention(const CudnnCalls& calls, const AttentionShape& shape, int capability);

/// The same with e4m3 tensors: q = descale_q * stored q, and so on. All factors are f32 numbers in device memory.
struct Fp8AttentionBuffers {
  DevicePtr q = 0, k = 0, v = 0, out = 0;
  DevicePtr descale_q = 0, descale_k = 0, descale_v = 0;
  DevicePtr scale_s = 0, descale_s = 0;      ///< of the probabilities: 256 and 1/256 suit values of at most 1
  DevicePtr scale_out = 0;                   ///< out = rounded(scale_out * result)
  DevicePtr largest_s = 0, largest_out = 0;  ///< written: the largest absolute values, before scaling; start from 0
  float scale = 1;
};

class Fp8AttentionPlan {
 public:
  Fp8AttentionPlan(const AttentionShape& shape, std::shared_ptr<const CudnnPlan> plan) : shape_(shape), plan_(std::move(plan)) {}
  const AttentionShape& shape() const { return shape_; }
  int64_t workspace_bytes() const { return plan_->workspace_bytes(); }
  const Choice& choice() const { return plan_->choice(); }
  std::unique_ptr<BoundCall> bind(const Fp8AttentionBuffers& buffers, const Workspace& workspace) const;

 private:
  AttentionShape shape_;
  std::shared_ptr<const CudnnPlan> plan_;
};

/// `shape.type` must be f8e4m3; no bias, not causal, d a multiple of 16.
Planned<Fp8AttentionPlan> plan_fp8_attention(Vendor& vendor, const AttentionShape& shape,
                                             const TuneOn<Fp8AttentionBuffers>* tune = nullptr);
Prepared prepare_fp8_attention(Vendor& vendor, const AttentionShape& shape);
std::string why_no_fp8_attention(const CudnnCalls& calls, const AttentionShape& shape, int capability);

}  // namespace sinter::cuda
