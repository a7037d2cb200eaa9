#pragma once
// What the rows of split products are: rows of matrices, pixels of a window, of one whose result is twice as large, or of one
// with a shortcut.
#include "backends/cuda/kernels/split_product_arguments.h"
#include "backends/cuda/kernels/tile_results.device.h"
#include "backends/cuda/kernels/window_pixels.device.h"

namespace sinter::device {

/// Where the rows of the left matrix come from and those of the results go: here from and to matrices.
struct SplitMatrixRows : MatrixRows {
  /// kTurned: rows of the weights are columns of the left matrix, not of the results.
  static constexpr bool kTurned = false, kHasShortcut = false;

  /// What one step multiplies, by its number.
  struct Step {
    int column;
  };
  SINTER_DEVICE_INLINE Step step(int number) const { return {number * kTileDepth}; }
  SINTER_DEVICE_INLINE void advance(Step& step, int steps) const { step.column += steps * kTileDepth; }
  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, const Step& step, const Tile& tile, uint32_t barrier) const {
    copy_tile(to, map, step.column, tile.row, barrier);
  }
  /// Rows of the weights from `weight` on, to this block or, where any are named, to those blocks of the cluster.
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& step, const Tile&, int weight, uint32_t barrier,
                                         uint32_t blocks) const {
    if (blocks)
      copy_tile_to_blocks(to, map, step.column, weight, barrier, blocks);
    else
      copy_tile(to, map, step.column, weight, barrier);
  }
};

/// Rows are pixels: the copying unit brings a box of them once for each tap, a little further each time, and what lies outside of
/// the picture as zeros, which is the padding. Rows of the filters are [tap, channel].
struct SplitWindowRows {
  static constexpr bool kTurned = false, kHasShortcut = false;
  const SplitWindowArguments& window;
  const int filled = divide_up(window.channels, kTileDepth) * kTileDepth;  // channels of a tap

  struct Step {
    int channel, x, y, tap;
  };
  SINTER_DEVICE_INLINE Step step(int number) const {
    const int tap = number * kTileDepth / filled;
    return {number * kTileDepth % filled, tap % window.kernel_w, tap / window.kernel_w, tap};
  }
  /// Without divisions: those of a step took longer than its products.
  SINTER_DEVICE_INLINE void advance(Step& s, int steps) const {
    s.channel += steps * kTileDepth;
    while (s.channel >= filled) {
      s.channel -= filled;
      ++s.tap;
      if (++s.x == window.kernel_w) s.x = 0, ++s.y;
    }
  }

  struct Tile {
    int x, y, picture;  // of its first pixel
  };
  SINTER_DEVICE_INLINE Tile tile(int row) const {
    const int box = row / kTileRows, above = box / window.boxes_x;
    return {box % window.boxes_x << window.box_x, above % window.boxes_y << window.box_y,
            above / window.boxes_y * (kTileRows >> (window.box_x + window.box_y))};
  }
  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, const Step& s, const Tile& tile, uint32_t barrier) const {
    copy_box(to, map, s.channel, tile.x * window.stride + s.x - window.left, tile.y * window.stride + s.y - window.top,
             tile.picture, barrier);
  }
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& s, const Tile&, int weight, uint32_t barrier,
                                         uint32_t blocks) const {
    if (blocks)
      copy_box_to_blocks(to, map, s.channel, s.tap, weight, barrier, blocks);
    else
      copy_box(to, map, s.channel, s.tap, weight, barrier);
  }
  /// The pixel that is a tile's row.
  SINTER_DEVICE_INLINE Tile pixel(const Tile& tile, int row) const {
    return {tile.x + (row & ((1 << window.box_x) - 1)), tile.y + (row >> window.box_x & ((1 << window.box_y) - 1)),
            tile.picture + (row >> (window.box_x + window.box_y))};
  }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const { return row_of_pixel(window, pixel(tile, row)); }
};

/// The result is twice as large (DoubledPlace). Tiles do not share their filters.
template <int kColumns>
struct SplitDoubledRows {
  static constexpr bool kTurned = true, kHasShortcut = false;
  const SplitWindowRows rows;

  using Step = SplitWindowRows::Step;
  SINTER_DEVICE_INLINE Step step(int number) const { return rows.step(number); }
  SINTER_DEVICE_INLINE void advance(Step& s, int steps) const { rows.advance(s, steps); }

  struct Tile {
    SplitWindowRows::Tile of;
    DoubledPlace place;
  };
  SINTER_DEVICE_INLINE Tile tile(int row) const {
    const int of_place = rows.window.place_boxes * kTileRows, place = row / of_place;
    return {rows.tile(row - place * of_place), DoubledPlace::of(place)};
  }
  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, const Step& s, const Tile& tile, uint32_t barrier) const {
    copy_box(to, map, s.channel, tile.of.x + s.x - tile.place.left(), tile.of.y + s.y - tile.place.top(), tile.of.picture,
             barrier);
  }
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& s, const Tile& tile, int weight, uint32_t barrier,
                                         uint32_t) const {
    const int tap = tile.place.tap(s.x, s.y);
    SINTER_UNROLL
    for (int first = 0; first < kColumns; first += 64)
      copy_box(to + uint32_t(first) * kTileDepth * 2, map, weight + first, tap, s.channel, barrier);
  }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const {
    return tile.place.row_of_pixel(rows.window, rows.pixel(tile.of, row));
  }
};

/// With a shortcut, whose maps lie sizeof(TileMaps) behind the window's.
struct SplitShortcutRows {
  static constexpr bool kTurned = false, kHasShortcut = true;
  const SplitWindowRows rows;
  const SplitShortcutArguments& shortcut;

  struct Step {
    SplitWindowRows::Step of_window;
    int number;  // among the shortcut's, negative before
  };
  SINTER_DEVICE_INLINE Step step(int number) const { return {rows.step(number), number - shortcut.from}; }
  SINTER_DEVICE_INLINE void advance(Step& s, int steps) const {
    s.number += steps;
    if (s.number < 0) rows.advance(s.of_window, steps);
  }
  using Tile = SplitWindowRows::Tile;
  SINTER_DEVICE_INLINE Tile tile(int row) const { return rows.tile(row); }
  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, const Step& s, const Tile& tile, uint32_t barrier) const {
    if (s.number < 0) return rows.copy_rows(to, map, s.of_window, tile, barrier);
    copy_box(to, map + sizeof(TileMaps), s.number * kTileDepth, tile.x, tile.y, tile.picture, barrier);
  }
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& s, const Tile& tile, int weight, uint32_t barrier,
                                         uint32_t blocks) const {
    if (s.number < 0) return rows.copy_weights(to, map, s.of_window, tile, weight, barrier, blocks);
    rows.copy_weights(to, map + sizeof(TileMaps), {s.number * kTileDepth, 0, 0, 0}, tile, weight, barrier, blocks);
  }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const { return rows.out_row(tile, row); }
};

}  // namespace sinter::device
