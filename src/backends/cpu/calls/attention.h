#pragma once
#include "backends/cpu/microkernels.h"
#include "base/thread_pool.h"
#include "tensor/dtype.h"

namespace sinter {

/// Where element (b, t, h, d) of a tensor is: strides in elements; d lies dense.
struct HeadStrides {
  int64_t b = 0, t = 0, h = 0;
};

/// out = softmax(scale * q k^T + bias) v for each batch entry and head. The scores are never held: rows of queries go through
/// blocks of keys with running maxima (Milakov and Gimelshein 2018; Dao et al. 2022). Everything is f32, but for inputs of bf16
/// where the processor has dot products of them: then both products take bf16 operands, the exponentials cut to it, and add in
/// f32.
struct AttentionShape {
  int64_t b = 1, heads = 1, queries = 0, keys = 0, d = 0;  ///< d at most 1024
  float scale = 1;
  bool causal = false;     ///< query i sees keys 0..i, also when there are more keys than queries (as PyTorch's is_causal)
  DType in = DType::f32;   ///< of q, k and v: f32, bf16 or f16
  DType out = DType::f32;  ///< f32 or bf16
};

struct AttentionCall {
  AttentionShape shape;
  const void *q = nullptr, *k = nullptr, *v = nullptr;
  HeadStrides q_strides, k_strides, v_strides;
  /// Added to the scores: bias[b * stride.b + h * stride.h + query * stride.t + key * bias_key_stride] (0 or 1). A query whose
  /// every key has -infinity gives zeros, not the NaN of a division by zero. NaN in the scores passes through.
  const float* bias = nullptr;
  HeadStrides bias_strides;
  int bias_key_stride = 1;
  void* out = nullptr;
  HeadStrides out_strides;
  void* workspace = nullptr;  ///< attention_workspace_bytes(), 64-byte aligned
};

int64_t attention_workspace_bytes(const AttentionShape& shape, int threads, const Microkernels& kernels);
void attention(const AttentionCall& call, const Microkernels& kernels, ThreadPool& pool);
/// Multiplications and additions of the two products, without what causality leaves out.
double attention_flops(const AttentionShape& shape);

}  // namespace sinter
