#pragma once
#include <stdint.h>

#include "backends/cuda/kernels/attention_arguments.h"

namespace sinter::device {

/// What the kernels of tile_attention.device.h take, the same bytes for host and device.

/// The driver's descriptions of the three operands, for copies of tiles of a head.
struct alignas(64) TileAttentionMaps {
  uint64_t q[16], k[16], v[16];
};

/// How the queries of all heads are shared out: each head's tiles of kAttentionRows are split into groups that a block makes at
/// once, one warpgroup a tile; so many groups of a head have `width` tiles, others one less.
struct TileAttentionOrder {
  int heads = 0;  ///< of all batch entries
  int width = 0, wide = 0, narrow = 0;

  struct Group {
    int head, first, width;  ///< first: tile of the head
  };
  constexpr int groups() const { return heads * (wide + narrow); }
  /// Wide ones first, so that blocks end at about the same time.
  constexpr Group group(int index) const {
    const int rest = index - heads * wide;
    if (rest < 0) return {index / wide, index % wide * width, width};
    return {rest / narrow, wide * width + rest % narrow * (width - 1), width - 1};
  }
};

/// Strides of `out` are multiples of 16 bytes.
struct TileAttentionArguments {
  HeadsArguments out;
  TileAttentionOrder order;
  int heads = 0;  ///< of a batch entry
  int queries = 0, keys = 0, d = 0;
  float scale = 1;
};

/// Queries of a warpgroup, keys that are taken at a time.
constexpr int kAttentionRows = 64, kAttentionKeys = 128;
/// Marks of groups that are to be made again, one for every so manyth group of a block.
constexpr int kAttentionMarks = 32;

/// A kernel's sizes.
struct TileAttentionForm {
  int d;       ///< columns of results: heads have so many or fewer
  int makers;  ///< warpgroups that make results

  /// Whether a warpgroup makes scores while its earlier weights are multiplied with values. Four have no registers for that; of
  /// them some multiply while others exponentiate.
  constexpr bool ahead() const { return makers < 4; }
  constexpr int depth() const { return (d + 15) / 16 * 16; }  ///< columns that scores are summed over
  /// Of a thread that makes results, and of one that copies.
  constexpr int maker_registers() const { return makers == 2 ? 240 : makers == 3 ? 160 : 112; }
  constexpr int copier_registers() const { return makers == 3 ? 32 : 24; }
  /// Of a thread of each warpgroup together, and how many these begin with: who asks for more than there are waits for ever.
  constexpr int registers() const { return makers * maker_registers() + copier_registers(); }
  constexpr int started_registers() const { return 512 / (makers + 1) / 8 * 8 * (makers + 1); }
  constexpr int boxes() const { return (d + 63) / 64; }                        ///< of 64 columns that a tile is copied as
  constexpr int threads() const { return (makers + 1) * 128; }                 ///< one warpgroup copies
  constexpr int slot_bytes() const { return boxes() * kAttentionKeys * 128; }  ///< a tile of keys or of values
  constexpr int query_bytes() const { return boxes() * kAttentionRows * 128; }
  /// From row to row of the results of a warp before they are stored: eight rows begin in different banks.
  constexpr int staging_pitch() const { return d * 2 + 16; }
  constexpr int staging_bytes() const { return 16 * staging_pitch(); }  ///< of a warp
  constexpr int slots() const {
    constexpr int kMost = 227 * 1024 - kRest, kEnough = 8;
    const int fit = (kMost - makers * (query_bytes() + 4 * staging_bytes())) / slot_bytes();
    return fit < kEnough ? fit : kEnough;
  }
  constexpr int shared_bytes() const { return slots() * slot_bytes() + makers * (query_bytes() + 4 * staging_bytes()) + kRest; }

 private:
  static constexpr int kRest = 1024 + 256 + kAttentionMarks * 4;  // to align the tiles, barriers and marks
};

}  // namespace sinter::device
