#pragma once
// Convolutions as tile products: the copying unit brings the same box of pixels once for each pixel of the window, a little
// further each time, and what lies outside of the picture as zeros, which is the padding.
#include "backends/cuda/kernels/tile_product.device.h"
#include "backends/cuda/kernels/tile_window_arguments.h"

namespace sinter::device {

/// Rows are pixels. Of the filters, rows are [window's pixel, channel].
struct WindowRows {
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
    copy_pixels(to, map, s.channel, tile.x * window.stride + s.x - window.left, tile.y * window.stride + s.y - window.top,
                tile.picture, barrier);
  }
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& s, const Tile&, int weight,
                                         uint32_t barrier) const {
    copy_filters_to_pair(to, map, s.channel, s.tap, weight, barrier);
  }
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const {
    const int x = tile.x + (row & ((1 << window.box_x) - 1));
    const int y = tile.y + (row >> window.box_x & ((1 << window.box_y) - 1));
    const int picture = tile.picture + (row >> (window.box_x + window.box_y));
    const bool inside = x < window.width && y < window.height && picture < window.pictures;
    return inside ? (picture * window.height + y) * window.width + x : -1;
  }
};

}  // namespace sinter::device

/// The kernel of one form and type, a module of its own as those of products.
#define SINTER_TILE_WINDOW(columns, type, bf16)                                                                       \
  SINTER_DEVICE_PAIR_KERNEL(tile_window_##columns##_##type##__plain, sinter::device::TileMaps maps,                   \
                            sinter::device::TileProductArguments arguments, sinter::device::WindowArguments window) { \
    (void)maps;                                                                                                       \
    uint64_t at;                                                                                                      \
    SINTER_PARAMETER_ADDRESS(at, maps, tile_window_##columns##_##type##__plain, 0);                                   \
    sinter::device::TileProduct<columns, false, bf16, sinter::device::WindowRows>(arguments, {window}).run(at);       \
  }
