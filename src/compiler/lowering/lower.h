#pragma once
#include "compiler/lowering/program.h"

namespace sinter {

struct LowerOptions {
  bool fuse = true;       ///< false: one kernel for each op (the eager backend)
  bool bf16_dot = false;  ///< the target multiplies bf16 pairs
  /// Products and convolutions are a vendor's: they take weights as plain rows and do a VendorTail; nothing else is fused into
  /// them.
  bool vendor = false;
  /// With `vendor`: linear layers of bf16 tokens or pixels whose width in and out is at least this multiply in f8e4m3, with a
  /// factor for each token and each row of the weights; 0: none. Layers of one vector (a timestep's) stay as they are: they wait
  /// for their weights' memory, take no time, and many things depend on their digits.
  int64_t fp8_width = 0;
  /// With `vendor`: a 16-bit linear layer whose halves are value and gate of a GEGLU is one product that gates its own result.
  bool gated = false;
  /// With `vendor`: a convolution of a picture at twice its size may take its bias too, where that is a pass of its own.
  bool doubled_bias = false;
  /// With `vendor`: self-attention of bf16 over at least so many normalised tokens multiplies in f8e4m3 (fp8_attention.h); 0:
  /// none.
  int64_t fp8_keys = 0;
};

/// From which width on f8e4m3 gains more than quantising what it reads costs.
inline constexpr int64_t kFp8Width = 1024;
inline constexpr int64_t kFp8Keys = 1024;

/// Cuts a graph into steps: which values live in memory, which ops become one row kernel, which kernels become prologues and
/// epilogues of calls. The graph is one that legalise() made; weights and calls are numbered as it lists them. The code of the
/// kernels is not generated here.
Program lower(const Graph& graph, const LowerOptions& options);

/// The graph in ops that lower() knows: composites without a call of their own expanded, reductions over the last axis only.
void legalise(const Graph& from, Graph& to, const LowerOptions& options);

}  // namespace sinter
