#pragma once
#include "backends/cuda/kernels/tile_product_arguments.h"

namespace sinter::device {

/// What the kernels of split_product.device.h take besides a product's arguments, the same bytes for host and device.
struct SplitArguments {
  /// Tiles of a cluster, one below the other, which share what is read of the weights. A cluster's blocks are numbered tile by
  /// tile in each part.
  int rows = 1;
};

/// What windows with a shortcut take besides: behind the window's steps come those of a convolution of one pixel, of another
/// picture of the result's size, into the same sums. Its maps are tile windows' too.
struct SplitShortcutArguments {
  uint64_t bias = 0;  ///< one more; 0: none
  int from = 0;       ///< the first of its steps
};

/// Two warpgroups that multiply, and a warp that lets copies begin.
constexpr int kSplitThreads = 288;

/// A kernel's tile, and what of it lies in shared memory. Its sums change hands as patches, 16 rows of 8 columns, as a warp holds
/// them: four in each lane.
struct SplitTile {
  int columns;
  int parts;  ///< blocks that make a tile together, each of other steps of k

  static constexpr int kPatchBytes = 16 * 8 * 4;
  constexpr int patches() const { return kTileRows / 16 * (columns / 8); }
  /// That a block finishes; the last ones may have less. Even, because a warp finishes two neighbours, 32 bytes of a row.
  constexpr int part_patches() const { return (patches() / 2 + parts - 1) / parts * 2; }
  constexpr int stage_bytes() const { return (kTileRows + columns) * kTileDepth * 2; }
  constexpr int stages() const { return (227 * 1024 - kRest) / stage_bytes(); }
  constexpr int shared_bytes() const { return stages() * stage_bytes() + kRest; }
  /// Where the stages were lie a block's own sums in the end, and behind them what it got from the others.
  constexpr int exchanged_bytes() const { return (patches() + parts * part_patches()) * kPatchBytes; }

 private:
  static constexpr int kRest = 1024 + 192;  // to align the stages, and barriers
};

}  // namespace sinter::device
