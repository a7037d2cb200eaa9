#pragma once
#include <string>

#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/kernels/tensor_map.h"
#include "backends/cuda/kernels/tile_attention_arguments.h"

namespace sinter::cuda {

// Attention of 16-bit heads of up to 160 to any number of keys on devices of capability 9.0, by copies of whole tiles and
// warpgroup instructions. Competes with cuDNN's (../calls/attention.h).

/// The kernels that there are for a size of heads.
enum class TileKind {
  Any,  ///< of any number of keys
  Few,  ///< a block has all keys of a head, at most device::kFewKeys, and takes one tile of queries after the other
};

/// Why such a kernel does not make this call; empty where it does. Addresses may be 0 so far.
std::string why_no_tile_attention(const AttentionCall& call, TileKind kind, const DeviceInfo& device);

/// The module that makes the call, and its kernel.
std::string tile_attention_module(const AttentionCall& call, TileKind kind);
std::string tile_attention_kernel(const AttentionCall& call, TileKind kind);
/// The sizes of the kernel that makes it.
const device::TileAttentionForm& tile_attention_form(const AttentionCall& call, TileKind kind);
/// How the queries of so many heads are shared out: what the busiest multiprocessor makes should take the least time.
device::TileAttentionOrder tile_attention_order(int64_t heads, int64_t queries, int makers, int multiprocessors);

/// A call as it is launched.
struct TileAttention {
  std::string kernel;
  LaunchShape shape;
  device::TileAttentionMaps maps;
  device::TileAttentionArguments arguments;
  TiledArray q, k, v;  ///< what the maps describe

  void launch(KernelTarget& target) const { target(kernel, shape, maps, arguments); }
};
TileAttention tile_attention(const AttentionCall& call, TileKind kind, int multiprocessors);
/// Without the driver's description of the operands, for tests that have no driver.
TileAttention tile_attention_without_maps(const AttentionCall& call, TileKind kind, int multiprocessors);

}  // namespace sinter::cuda
