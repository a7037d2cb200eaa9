#pragma once
#include "backends/cuda/head_strides.h"
#include "backends/cuda/kernels/attention_arguments.h"
#include "backends/cuda/kernels/gemm.h"
#include "backends/cuda/kernels/kernels.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// out = softmax(scale * q k^T + bias) v for each batch entry and head, for machines without cuDNN; the meaning is that of the
/// CPU's calls/attention.h. 16-bit types with d up to 256, a multiple of 8, and rows at multiples of 16 bytes never hold the
/// scores; everything else goes through scores in the workspace, some queries at a time.
struct AttentionCall {
  int64_t b = 1, heads = 1, queries = 0, keys = 0, d = 0;
  float scale = 1;
  bool causal = false;       ///< query i sees keys 0..i
  DType type = DType::bf16;  ///< of q, k, v and out: f32, f16 or bf16
  DevicePtr q = 0, k = 0, v = 0, out = 0;
  HeadStrides q_strides, k_strides, v_strides, out_strides;
  /// Added to the scores: bias[b * stride.b + h * stride.h + query * stride.t + key * bias_key_stride]; 0: none. A query
  /// whose every key has -infinity gives zeros.
  DevicePtr bias = 0;
  DType bias_type = DType::f32;  ///< f32, f16 or bf16
  HeadStrides bias_strides;
  int64_t bias_key_stride = 1;
  DevicePtr workspace = 0;  ///< attention_workspace_bytes(), 256-byte aligned
};

/// Whether all rows of heads are whole pieces of 16 bytes of 16-bit elements, at multiples of 16 bytes.
bool lies_in_chunks(const AttentionCall& call);
device::AttentionArguments device_arguments(const AttentionCall& call);

/// Whether the scores are kept in the workspace; then both products go through `product`.
bool attention_keeps_scores(const AttentionCall& call);
int64_t attention_workspace_bytes(const AttentionCall& call, bool keep_scores);
void attention(KernelTarget& target, const AttentionCall& call);
/// The form that keeps scores, with someone else's products.
void attention_by_products(KernelTarget& target, const AttentionCall& call,
                           const std::function<void(const MatmulCall&)>& product);

}  // namespace sinter::cuda
