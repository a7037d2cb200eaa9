#pragma once
#include "compiler/lowering/program.h"

namespace sinter {

struct LowerOptions {
  bool fuse = true;       ///< false: one kernel for each op (the eager backend)
  bool bf16_dot = false;  ///< the target multiplies bf16 pairs
  /// Products and convolutions are a vendor's: they take weights as plain rows and do a VendorTail; nothing else is fused into
  /// them.
  bool vendor = false;
};

/// Cuts a graph into steps: which values live in memory, which ops become one row kernel, which kernels become prologues and
/// epilogues of calls. The graph is one that legalise() made; weights and calls are numbered as it lists them. The code of the
/// kernels is not generated here.
Program lower(const Graph& graph, const LowerOptions& options);

/// The graph in ops that lower() knows: composites without a call of their own expanded, reductions over the last axis only.
void legalise(const Graph& from, Graph& to, const LowerOptions& options);

}  // namespace sinter
