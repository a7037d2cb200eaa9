#pragma once
// What the rows of split products are: rows of matrices, pixels of a window, of one whose result is twice as large, or of one
// with a shortcut.
#include "backends/cuda/kernels/split_product_arguments.h"
#include "backends/cuda/kernels/tile_results.device.h"
#include "backends/cuda/kernels/window_pixels.device.h"
#include "backends/cuda/kernels/window_taps.device.h"

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

/// Rows are consecutive pixels of the result. Rows of the filters are [tap, channel].
struct SplitWindowRows : MatrixRows {
  static constexpr bool kTurned = false, kHasShortcut = false;
  const WindowTaps taps;

  using Step = WindowTaps::Step;
  SINTER_DEVICE_INLINE Step step(int number) const { return taps.step(number); }
  SINTER_DEVICE_INLINE void advance(Step& s, int steps) const { taps.advance(s, steps); }

  struct Tile : MatrixRows::Tile {
    WindowTaps::Pixel from;
  };
  SINTER_DEVICE_INLINE Tile tile(int row) const { return {{row}, taps.place(row)}; }
  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, const Step& s, const Tile& tile, uint32_t barrier) const {
    copy_pixels(to, map, s.channel, tile.from.x, tile.from.y, tile.from.picture, s.x, s.y, barrier);
  }
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& s, const Tile&, int weight, uint32_t barrier,
                                         uint32_t blocks) const {
    if (blocks)
      copy_box_to_blocks(to, map, s.channel, s.tap, weight, barrier, blocks);
    else
      copy_box(to, map, s.channel, s.tap, weight, barrier);
  }
};

/// The result is twice as large (DoubledPlace): rows are pixels of the picture, those of each place filled up to whole tiles.
/// Tiles do not share their filters.
template <int kColumns>
struct SplitDoubledRows {
  static constexpr bool kTurned = true, kHasShortcut = false;
  const TileProductArguments& args;
  const WindowTaps taps;  // of an even place

  using Step = WindowTaps::Step;
  SINTER_DEVICE_INLINE Step step(int number) const { return taps.step(number); }
  SINTER_DEVICE_INLINE void advance(Step& s, int steps) const { taps.advance(s, steps); }

  struct Tile {
    int row;  // of the place
    WindowTaps::Pixel from;
    DoubledPlace place;
  };
  SINTER_DEVICE_INLINE Tile tile(int row) const {
    const int of_place = args.m / DoubledPlace::kCount, place = row / of_place, first = row - place * of_place;
    return {first, taps.place(first), DoubledPlace::of(place)};
  }
  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, const Step& s, const Tile& tile, uint32_t barrier) const {
    copy_pixels(to, map, s.channel, tile.from.x, tile.from.y, tile.from.picture, s.x + tile.place.odd_x, s.y + tile.place.odd_y,
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
    return tile.place.row_of_pixel(taps.window, taps.pixel(tile.row + row));
  }
};

/// With a shortcut, whose maps lie sizeof(TileMaps) behind the window's. Its pixels are rows of a matrix.
struct SplitShortcutRows : SplitWindowRows {
  static constexpr bool kHasShortcut = true;
  const SplitShortcutArguments& shortcut;

  struct Step {
    SplitWindowRows::Step of_window;
    int number;  // among the shortcut's, negative before
  };
  SINTER_DEVICE_INLINE Step step(int number) const { return {taps.step(number), number - shortcut.from}; }
  SINTER_DEVICE_INLINE void advance(Step& s, int steps) const {
    s.number += steps;
    if (s.number < 0) taps.advance(s.of_window, steps);
  }
  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, const Step& s, const Tile& tile, uint32_t barrier) const {
    if (s.number < 0) return SplitWindowRows::copy_rows(to, map, s.of_window, tile, barrier);
    copy_tile(to, map + sizeof(TileMaps), s.number * kTileDepth, tile.row, barrier);
  }
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& s, const Tile& tile, int weight, uint32_t barrier,
                                         uint32_t blocks) const {
    if (s.number < 0) return SplitWindowRows::copy_weights(to, map, s.of_window, tile, weight, barrier, blocks);
    SplitWindowRows::copy_weights(to, map + sizeof(TileMaps), {s.number * kTileDepth, 0, 0, 0}, tile, weight, barrier, blocks);
  }
};

}  // namespace sinter::device
