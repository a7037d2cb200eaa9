#pragma once
#include <functional>
#include <map>
#include <optional>
#include <unordered_map>

#include "compiler/lowering/program.h"

namespace sinter {

/// Thrown while a kernel is built: this node must lie in memory before the kernel can read it. Lowering starts again with it
/// there.
struct NeedsMemory {
  const Node* node;
  bool dense = false;  ///< in memory it is already, but with gaps that a reshape cannot cross
};

/// Where values are, as the kernel builder asks.
struct Residents {
  /// The view of a value that lies in memory; nothing for one that is computed inside kernels.
  std::function<std::optional<View>(const Node*)> home;
  const Node* tile = nullptr;  ///< the call whose result a fused epilogue reads from tiles
  int64_t tile_columns = 0;    ///< columns of one part of it
  int parts = 1;
};

struct BuiltKernel {
  RowKernel kernel;
  KernelUse use;  ///< with kernel = -1
};

/// One row kernel for the expression under `root`, down to values in memory: movement ops are pushed into the addresses of loads.
/// The result goes to `out`, or to a flat tile if there is none (a prologue). Throws NeedsMemory.
BuiltKernel build_kernel(const Node* root, const Residents& residents, const std::optional<View>& out);

/// The view of `node` through the movement ops above a value in memory; throws NeedsMemory.
View view_of(const Node* node, const Residents& residents);

}  // namespace sinter
