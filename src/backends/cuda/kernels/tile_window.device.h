#pragma once
// Convolutions as tile products: the copying unit brings the same box of pixels once for each pixel of the window, a little
// further each time, and what lies outside of the picture as zeros, which is the padding.
#include "backends/cuda/kernels/tile_product.device.h"
#include "backends/cuda/kernels/tile_window_arguments.h"

namespace sinter::device {

/// Rows are pixels. Of the filters, rows are [window's pixel, channel].
struct WindowRows {
  static constexpr bool kTurned = false;
  const WindowArguments& window;

  struct Step {
    int channel, x, y, tap;
  };
  SINTER_DEVICE_INLINE Step step(int number) const {
    const int of_tap = divide_up(window.channels, kTileDepth), tap = number / of_tap;
    return {number % of_tap * kTileDepth, tap % window.kernel_w, tap / window.kernel_w, tap};
  }
  SINTER_DEVICE_INLINE void advance(Step& s) const {
    if ((s.channel += kTileDepth) < window.channels) return;
    s.channel = 0;
    ++s.tap;
    if (++s.x == window.kernel_w) s.x = 0, ++s.y;
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
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& s, const Tile&, int weight,
                                         uint32_t barrier) const {
    copy_box_to_pair(to, map, s.channel, s.tap, weight, barrier);
  }
  /// The pixel that is a tile's row.
  SINTER_DEVICE_INLINE Tile pixel(const Tile& tile, int row) const {
    return {tile.x + (row & ((1 << window.box_x) - 1)), tile.y + (row >> window.box_x & ((1 << window.box_y) - 1)),
            tile.picture + (row >> (window.box_x + window.box_y))};
  }
  SINTER_DEVICE_INLINE bool inside(const Tile& p) const {
    return p.x < window.width && p.y < window.height && p.picture < window.pictures;
  }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const {
    const Tile p = pixel(tile, row);
    return inside(p) ? (p.picture * window.height + p.y) * window.width + p.x : -1;
  }
};

/// The result is twice as large: four convolutions with windows of 2 x 2, whose results are even or odd pixels of even or odd
/// rows
/// ("places"). Filters are [channel, 4 x 4, filter] as of a gradient: each place has other four of the 4 x 4. The padding in
/// front is 1, less where the place is odd.
struct DoubledRows {
  static constexpr bool kTurned = true;
  const WindowRows rows;

  using Step = WindowRows::Step;
  SINTER_DEVICE_INLINE Step step(int number) const { return rows.step(number); }
  SINTER_DEVICE_INLINE void advance(Step& s) const { rows.advance(s); }

  struct Tile {
    WindowRows::Tile of;
    int odd_x, odd_y;
  };
  SINTER_DEVICE_INLINE Tile tile(int row) const {
    const int of_place = rows.window.place_boxes * kTileRows, place = row / of_place;
    return {rows.tile(row - place * of_place), place & 1, place >> 1};
  }
  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, const Step& s, const Tile& tile, uint32_t barrier) const {
    copy_box(to, map, s.channel, tile.of.x + s.x - 1 + tile.odd_x, tile.of.y + s.y - 1 + tile.odd_y, tile.of.picture, barrier);
  }
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& s, const Tile& tile, int weight,
                                         uint32_t barrier) const {
    const int tap = (3 - 2 * s.y - tile.odd_y) * 4 + 3 - 2 * s.x - tile.odd_x;
    copy_box_to_pair(to, map, weight, tap, s.channel, barrier);
  }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const {
    const WindowArguments& w = rows.window;
    const WindowRows::Tile p = rows.pixel(tile.of, row);
    return rows.inside(p) ? ((p.picture * w.height + p.y) * 2 + tile.odd_y) * 2 * w.width + 2 * p.x + tile.odd_x : -1;
  }
};

}  // namespace sinter::device

#define SINTER_TILE_WINDOW_KERNEL(module, columns, bf16, ...)                                                               \
  SINTER_DEVICE_PAIR_KERNEL(module##__plain, sinter::device::TileMaps maps, sinter::device::TileProductArguments arguments, \
                            sinter::device::WindowArguments window) {                                                       \
    (void)maps;                                                                                                             \
    uint64_t at;                                                                                                            \
    SINTER_PARAMETER_ADDRESS(at, maps, module##__plain, 0);                                                                 \
    using Rows = __VA_ARGS__;                                                                                               \
    sinter::device::TileProduct<columns, false, bf16, Rows>(arguments, Rows{window}).run(at);                               \
  }
/// The kernel of one form and type, a module of its own as those of products.
#define SINTER_TILE_WINDOW(columns, type, bf16) \
  SINTER_TILE_WINDOW_KERNEL(tile_window_##columns##_##type, columns, bf16, sinter::device::WindowRows)
#define SINTER_TILE_DOUBLED(columns, type, bf16) \
  SINTER_TILE_WINDOW_KERNEL(tile_doubled_##columns##_##type, columns, bf16, sinter::device::DoubledRows)
