#pragma once
#include "backends/cuda/kernels/tile_product_arguments.h"

namespace sinter::device {

/// A tile's rows are two patches of the result's pixels, x first, then y; patches follow each other in the same order, then
/// pictures. Its steps are pixels of the window ("taps") of a part, then the next part's, then kTileDepth channels further again.
constexpr int kPatchSide = 8, kTilePatches = 2;
static_assert(kTilePatches * kPatchSide * kPatchSide == kTileRows);
/// So many taps along an axis make a part: what they multiply comes as one box of pixels. They are as far apart as the stride.
constexpr int kPartSide = 3;
constexpr int kMostSlots = 8;

/// What the kernels of tile_window.device.h take besides a product's arguments, the same bytes for host and device.
struct WindowArguments {
  int kernel_w = 1, kernel_h = 1, stride = 1, left = 0, top = 0;  ///< left, top: padding
  int width = 0, height = 0, pictures = 0;                        ///< of the result
  int patches_x = 0, patches_y = 0;                               ///< in a row, and rows of them in a picture
  int place_tiles = 0;                                            ///< where results are of twice the size: of one place, even
  int parts = 0;                                                  ///< of a tile, those of all channels
  int pitch = 0, patch_bytes = 0;  ///< of a box of pixels: from row to row in pixels; for one patch, a multiple of 128
  int slots = 0;                   ///< of boxes for a tile in shared memory, kMostSlots at most
};

/// A kernel's tile, and what of it lies in shared memory: filters of the steps to come, boxes of pixels, results before they are
/// stored.
struct WindowForm {
  int columns;

  constexpr int stage_bytes() const { return columns * kTileDepth * 2; }
  /// Where one of the two warpgroups puts its results before it stores them as rows.
  constexpr int staging_bytes() const { return kTileRows * columns * 2; }
  constexpr int stages() const { return columns > 128 ? 4 : columns > 80 ? 5 : 8; }
  /// Filled with slots.
  constexpr int pixel_bytes() const { return kMost - stages() * stage_bytes() - 2 * staging_bytes(); }
  constexpr int shared_bytes() const { return kMost + kRest; }

 private:
  static constexpr int kRest = 1024 + 256;  // to align the stages, and barriers
  static constexpr int kMost = 227 * 1024 - kRest;
};

}  // namespace sinter::device
