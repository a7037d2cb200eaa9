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
/// once, one warpgroup a tile. The last heads may have more groups than the first. Kernels for few keys share out single tiles,
/// and take only heads() from here.
struct TileAttentionOrder {
  /// Each of so many heads has so many groups of `width` tiles, and others of one less.
  struct Heads {
    int count = 0, wide = 0, narrow = 0;
    constexpr int groups() const { return count * (wide + narrow); }
  };
  int width = 0;
  Heads first, last;

  struct Group {
    int head, first, width;  ///< first: tile of the head
  };
  constexpr int heads() const { return first.count + last.count; }  ///< of all batch entries
  constexpr int groups() const { return first.groups() + last.groups(); }
  /// Wide ones first, so that blocks end at about the same time.
  constexpr Group group(int index) const {
    const int wide = first.count * first.wide, all_wide = wide + last.count * last.wide;
    if (index < wide) return {index / first.wide, index % first.wide * width, width};
    if (index < all_wide) return {first.count + (index - wide) / last.wide, (index - wide) % last.wide * width, width};
    const int narrow = index - all_wide, rest = narrow - first.count * first.narrow, less = width - 1;
    if (rest < 0) return {narrow / first.narrow, first.wide * width + narrow % first.narrow * less, less};
    return {first.count + rest / last.narrow, last.wide * width + rest % last.narrow * less, less};
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

/// Queries of a warpgroup, keys that are taken at a time, and those of kernels for no more keys than that.
constexpr int kAttentionRows = 64, kAttentionKeys = 128, kFewKeys = 80;
/// Marks of groups that are to be made again, one for every so manyth group of a block.
constexpr int kAttentionMarks = 32;

/// A kernel's sizes.
struct TileAttentionForm {
  int d;                      ///< columns of results: heads have so many or fewer
  int makers;                 ///< warpgroups that make results
  int keys = kAttentionKeys;  ///< of a tile

  /// Whether one tile has all keys. Then its heads stay while queries come and go, each warpgroup's by themselves.
  constexpr bool few() const { return keys == kFewKeys; }
  /// Of queries for each warpgroup. With two the next come while others are worked on, and then keys and values, which would wait
  /// until all warpgroups are done with their queries. Wide heads have more slots instead.
  constexpr int places() const { return few() || d <= 64 ? 2 : 1; }

  /// Whether a warpgroup makes scores while its earlier weights are multiplied with values. Four have no registers for that; of
  /// them some multiply while others exponentiate.
  constexpr bool ahead() const { return makers < 4 && !few(); }
  constexpr int depth() const { return (d + 15) / 16 * 16; }  ///< columns that scores are summed over
  /// Of a thread that makes results, and of one that copies.
  constexpr int maker_registers() const { return makers == 2 ? 240 : makers == 3 ? 160 : 112; }
  constexpr int copier_registers() const { return makers == 3 ? 32 : 24; }
  /// Of a thread of each warpgroup together, and how many these begin with: who asks for more than there are waits for ever.
  constexpr int registers() const { return makers * maker_registers() + copier_registers(); }
  constexpr int started_registers() const { return 512 / (makers + 1) / 8 * 8 * (makers + 1); }
  constexpr int boxes() const { return (d + 63) / 64; }                         ///< of 64 columns that a tile is copied as
  constexpr int threads() const { return (makers + 1) * 128; }                  ///< one warpgroup copies
  constexpr int slot_bytes() const { return boxes() * keys * 128; }             ///< a tile of keys or of values
  constexpr int query_bytes() const { return boxes() * kAttentionRows * 128; }  ///< of a place
  /// From row to row of the results of a warp before they are stored: eight rows begin in different banks.
  constexpr int staging_pitch() const { return d * 2 + 16; }
  constexpr int staging_bytes() const { return 16 * staging_pitch(); }  ///< of a warp
  constexpr int slots() const {
    const int most = 227 * 1024 - kRest, enough = few() ? 4 : 8;
    const int fit = (most - maker_bytes()) / slot_bytes();
    return fit < enough ? fit : enough;
  }
  constexpr int shared_bytes() const { return slots() * slot_bytes() + maker_bytes() + kRest; }

 private:
  constexpr int maker_bytes() const { return makers * (places() * query_bytes() + 4 * staging_bytes()); }
  static constexpr int kRest = 1024 + 256 + kAttentionMarks * 4;  // to align the tiles, barriers and marks
};

}  // namespace sinter::device
