#pragma once
// In which order tile windows multiply, and where the rows of their tiles come from and go to: of a window, of one whose result
// is twice as large, and of one with a shortcut.
#include "backends/cuda/kernels/hopper_intrinsics.h"
#include "backends/cuda/kernels/tile_product_arguments.h"
#include "backends/cuda/kernels/tile_window_arguments.h"
#include "backends/cuda/kernels/window_pixels.device.h"

namespace sinter::device {

/// What comes as one box of pixels: a part of the window, and the first of so many channels.
struct WindowBox {
  int channel, number;
  WindowPart part;
};
/// A tap of it.
struct WindowStep {
  WindowBox box;
  int x, y;

  SINTER_DEVICE_INLINE int tap_x(const WindowArguments& window) const { return box.part.x + x * window.stride; }
  SINTER_DEVICE_INLINE int tap_y(const WindowArguments& window) const { return box.part.y + y * window.stride; }
  SINTER_DEVICE_INLINE bool is_last() const { return x + 1 == box.part.width && y + 1 == box.part.height; }
};

/// The order of steps. `part_words`: the window's parts in shared memory, as a kernel's parameters take no index.
struct WindowSteps {
  const WindowArguments& window;
  const Shared<uint32_t>* part_words;

  SINTER_DEVICE_INLINE WindowBox box(int channel, int number) const {
    return {channel, number, WindowPart::unpacked(part_words[number])};
  }
  SINTER_DEVICE_INLINE WindowBox first_box() const { return box(0, 0); }
  SINTER_DEVICE_INLINE void advance(WindowBox& of) const {
    const bool last = of.number + 1 == window.parts;
    of = box(last ? of.channel + kTileDepth : of.channel, last ? 0 : of.number + 1);
  }
  /// Of the ring of boxes: whether one takes two slots, and how many those of a tile take.
  SINTER_DEVICE_INLINE bool takes_two_slots(const WindowBox&) const { return false; }
  SINTER_DEVICE_INLINE int tile_slots() const { return window.tile_parts; }
};

/// The same with a shortcut's steps behind the window's.
struct ShortcutSteps {
  const WindowSteps of_window;
  const ShortcutArguments& shortcut;

  SINTER_DEVICE_INLINE WindowBox first_box() const { return of_window.first_box(); }
  SINTER_DEVICE_INLINE void advance(WindowBox& of) const {
    if (shortcut.has(of.channel)) {
      of.channel += kTileDepth;
      return;
    }
    of_window.advance(of);
    if (shortcut.has(of.channel)) of.part = {0, 0, 1, 1};
  }
  SINTER_DEVICE_INLINE bool takes_two_slots(const WindowBox& box) const {
    return !shortcut.has(box.channel) || box.channel == shortcut.odd;
  }
  SINTER_DEVICE_INLINE int tile_slots() const { return shortcut.tile_slots; }
};

template <class Steps>
SINTER_DEVICE_INLINE WindowStep first_step(const Steps& order) {
  return {order.first_box(), 0, 0};
}
template <class Steps>
SINTER_DEVICE_INLINE void advance(const Steps& order, WindowStep& step) {
  if (++step.x < step.box.part.width) return;
  step.x = 0;
  if (++step.y < step.box.part.height) return;
  step.y = 0;
  order.advance(step.box);
}

/// How boxes of pixels lie in shared memory where all are the window's.
struct WindowBoxes {
  static constexpr bool kHasShortcut = false;
  const WindowArguments& window;

  SINTER_DEVICE_INLINE WindowSteps steps(const Shared<uint32_t>* part_words) const { return {window, part_words}; }
  /// Where a slot begins; what one of the patches in it takes, and a row of that.
  SINTER_DEVICE_INLINE uint32_t slot_offset(int slot) const { return uint32_t(slot * kTilePatches * window.patch_bytes); }
  SINTER_DEVICE_INLINE int patch_bytes(const WindowBox&) const { return window.patch_bytes; }
  SINTER_DEVICE_INLINE int row_bytes(const WindowBox&) const { return window.pitch * 128; }
};

/// Of the filters, rows are [tap, channel].
struct WindowRows : WindowBoxes {
  static constexpr bool kTurned = false;

  struct Patch {
    int x, y, picture;  // of its first pixel
  };
  struct Tile {
    Patch first, second;
  };
  SINTER_DEVICE_INLINE Patch patch(int number) const {
    const int above = number / window.patches_x;
    return {number % window.patches_x * kPatchSide, above % window.patches_y * kPatchSide, above / window.patches_y};
  }
  SINTER_DEVICE_INLINE Tile tile(int row) const {
    const int number = row / kTileRows * kTilePatches;
    return {patch(number), patch(number + 1)};
  }

  SINTER_DEVICE_INLINE void copy_patch(uint32_t to, uint64_t map, const WindowBox& box, const Patch& patch, int left, int top,
                                       uint32_t barrier) const {
    copy_box(to, map, box.channel, patch.x * window.stride + box.part.x - left, patch.y * window.stride + box.part.y - top,
             patch.picture, barrier);
  }
  SINTER_DEVICE_INLINE void copy_pixels(uint32_t to, uint64_t map, const WindowBox& box, const Tile& tile,
                                        uint32_t barrier) const {
    copy_patch(to, map, box, tile.first, window.left, window.top, barrier);
    copy_patch(to + uint32_t(window.patch_bytes), map, box, tile.second, window.left, window.top, barrier);
  }
  SINTER_DEVICE_INLINE void copy_filters(uint32_t to, uint64_t map, const WindowStep& step, const Tile&, int filter,
                                         uint32_t barrier) const {
    const int x = step.tap_x(window), y = step.tap_y(window);
    copy_box_to_pair(to, map, step.box.channel, y * window.kernel_w + x, filter, barrier);
  }

  /// The pixel that is a tile's row.
  SINTER_DEVICE_INLINE Patch pixel(const Tile& tile, int row) const {
    constexpr int kPixels = kPatchSide * kPatchSide;
    Patch at = tile.first;
    if (row >= kPixels) at = tile.second;
    return {at.x + row % kPatchSide, at.y + row % kPixels / kPatchSide, at.picture};
  }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const { return row_of_pixel(window, pixel(tile, row)); }
};

/// The result is twice as large (DoubledPlace).
struct DoubledRows : WindowBoxes {
  static constexpr bool kTurned = true;

  struct Tile {
    WindowRows::Tile of;
    DoubledPlace place;
  };
  SINTER_DEVICE_INLINE Tile tile(int row) const {
    const int of_place = window.place_tiles * kTileRows, place = row / of_place;
    return {WindowRows{{window}}.tile(row - place * of_place), DoubledPlace::of(place)};
  }
  SINTER_DEVICE_INLINE void copy_pixels(uint32_t to, uint64_t map, const WindowBox& box, const Tile& tile,
                                        uint32_t barrier) const {
    const WindowRows rows{{window}};
    rows.copy_patch(to, map, box, tile.of.first, tile.place.left(), tile.place.top(), barrier);
    rows.copy_patch(to + uint32_t(window.patch_bytes), map, box, tile.of.second, tile.place.left(), tile.place.top(), barrier);
  }
  SINTER_DEVICE_INLINE void copy_filters(uint32_t to, uint64_t map, const WindowStep& step, const Tile& tile, int filter,
                                         uint32_t barrier) const {
    copy_box_to_pair(to, map, filter, tile.place.tap(step.x, step.y), step.box.channel, barrier);
  }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const {
    return tile.place.row_of_pixel(window, WindowRows{{window}}.pixel(tile.of, row));
  }
};

/// With a shortcut. Both maps of it lie sizeof(TileMaps) behind the window's.
struct ShortcutRows {
  static constexpr bool kTurned = false, kHasShortcut = true;
  const WindowRows of_window;
  const ShortcutArguments& shortcut;

  SINTER_DEVICE_INLINE ShortcutSteps steps(const Shared<uint32_t>* part_words) const {
    return {of_window.steps(part_words), shortcut};
  }
  SINTER_DEVICE_INLINE uint32_t slot_offset(int slot) const { return uint32_t(slot * kShortcutSlotBytes); }
  SINTER_DEVICE_INLINE int patch_bytes(const WindowBox& box) const {
    return shortcut.has(box.channel) ? kShortcutPatchBytes : of_window.patch_bytes(box);
  }
  SINTER_DEVICE_INLINE int row_bytes(const WindowBox& box) const {
    return shortcut.has(box.channel) ? kPatchSide * 128 : of_window.row_bytes(box);
  }

  using Tile = WindowRows::Tile;
  SINTER_DEVICE_INLINE Tile tile(int row) const { return of_window.tile(row); }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const { return of_window.out_row(tile, row); }

  SINTER_DEVICE_INLINE void copy_own_patch(uint32_t to, uint64_t map, const WindowBox& box, const WindowRows::Patch& patch,
                                           uint32_t barrier) const {
    copy_box(to, map + sizeof(TileMaps), box.channel - shortcut.from, patch.x, patch.y, patch.picture, barrier);
  }
  SINTER_DEVICE_INLINE void copy_pixels(uint32_t to, uint64_t map, const WindowBox& box, const Tile& tile,
                                        uint32_t barrier) const {
    if (!shortcut.has(box.channel)) return of_window.copy_pixels(to, map, box, tile, barrier);
    copy_own_patch(to, map, box, tile.first, barrier);
    copy_own_patch(to + kShortcutPatchBytes, map, box, tile.second, barrier);
  }
  SINTER_DEVICE_INLINE void copy_filters(uint32_t to, uint64_t map, const WindowStep& step, const Tile& tile, int filter,
                                         uint32_t barrier) const {
    if (!shortcut.has(step.box.channel)) return of_window.copy_filters(to, map, step, tile, filter, barrier);
    copy_box_to_pair(to, map + sizeof(TileMaps), step.box.channel - shortcut.from, 0, filter, barrier);
  }
};

}  // namespace sinter::device
