#pragma once
#include "backends/cuda/kernels/tile_product_arguments.h"

namespace sinter::device {

/// A tile's rows are two patches of the result's pixels, x first, then y; patches follow each other in the same order, then
/// pictures. Its steps are pixels of the window ("taps") of a part, then the next part's, then kTileDepth channels further again.
constexpr int kPatchSide = 8, kTilePatches = 2;
static_assert(kTilePatches * kPatchSide * kPatchSide == kTileRows);
/// So many taps along an axis make a part: what they multiply comes as one box of pixels. They are as far apart as the stride.
constexpr int kPartSide = 3;
constexpr int kMostSlots = 8, kMostParts = 16;

/// Taps whose pixels come as one box: the first, and how many along an axis. In one word, as kernels keep them.
struct WindowPart {
  int x, y, width, height;

  constexpr uint32_t packed() const { return uint32_t(x | y << 8 | width << 16 | height << 24); }
  static constexpr WindowPart unpacked(uint32_t word) {
    return {int(word & 255), int(word >> 8 & 255), int(word >> 16 & 255), int(word >> 24)};
  }
};

/// What the kernels of tile_window.device.h take besides a product's arguments, the same bytes for host and device.
struct WindowArguments {
  int kernel_w = 1, stride = 1, left = 0, top = 0;  ///< left, top: padding
  int width = 0, height = 0, pictures = 0;          ///< of the result
  int patches_x = 0, patches_y = 0;                 ///< in a row, and rows of them in a picture
  int place_tiles = 0;                              ///< where results are of twice the size: of one place, even
  int parts = 0, tile_parts = 0;                    ///< of the window; of a tile, those of all channels
  uint32_t part[kMostParts] = {};                   ///< packed
  int pitch = 0, patch_bytes = 0;  ///< of a box of pixels: from row to row in pixels; for one patch, a multiple of 128
  int slots = 0;                   ///< of boxes for a tile in shared memory, kMostSlots at most
};

/// So many bytes of pixels are one step of a shortcut: two patches without a margin.
constexpr int kShortcutPatchBytes = kPatchSide * kPatchSide * kTileDepth * 2,
              kShortcutSlotBytes = kTilePatches * kShortcutPatchBytes;

/// What kernels with a shortcut take besides: behind the window's steps come those of a convolution of one pixel, of another
/// picture of the result's size, into the same sums. Each of them is a part, and slots are as large as they need; the window's
/// parts take two, which begin at an even one.
struct ShortcutArguments {
  uint64_t bias = 0;   ///< one more; 0: none
  int from = 0;        ///< the window's channels filled up to whole steps: the shortcut's are counted on from here
  int odd = 0;         ///< such a channel, of the step that takes two slots as well, so that all together are even; -1: none
  int tile_slots = 0;  ///< of all parts of a tile

  /// Whether a step of that channel is the shortcut's.
  constexpr bool has(int channel) const { return channel >= from; }
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
  /// Of both rings, full and empty.
  constexpr int barrier_bytes() const { return 2 * 8 * (stages() + kMostSlots); }
  constexpr bool has_room() const { return barrier_bytes() + 4 * kMostParts <= kRest - 1024; }

 private:
  static constexpr int kRest = 1024 + 384;  // to align the stages; barriers and parts of the window
  static constexpr int kMost = 227 * 1024 - kRest;
};

}  // namespace sinter::device
