#pragma once
#include <stdint.h>

namespace sinter::device {

/// What the kernels of tile_product.device.cpp take, the same bytes for host and device.

/// The driver's descriptions of the two matrices, for copies of tiles.
struct alignas(64) TileMaps {
  uint64_t a[16], weights[16];
};

/// Of a convolution and a second one, of one pixel, whose result is added to its sums.
struct ShortcutMaps {
  TileMaps window, shortcut;
};

/// Addresses are the device's and, as strides (in elements), multiples of 16 bytes.
struct TileProductArguments {
  uint64_t out = 0, bias = 0, residual = 0;  ///< 0: none
  int64_t out_stride = 0, residual_stride = 0;
  int m = 0, n = 0, k = 0;  ///< n: columns of `out`, a multiple of 8
  int gate = 0;             ///< gated kernels: the row of the weights, and of the bias, where the gates begin
  int gelu = 0;             ///< not gated: of the sum with its bias, the tanh form
  float scale = 1;          ///< of the sums, before the bias
  int early_weights = 0;    ///< no kernel of the stream writes the weights: they are read before those in front have ended
  int group = 1;            ///< so many pairs of tiles, one below the other, are made before the next column of tiles
};

/// The kernels' tiles: rows of a tile, columns of a and the weights that are multiplied at a time, threads of a block.
constexpr int kTileRows = 128, kTileDepth = 64, kTileThreads = 384;

/// A kernel's tile, and what of it lies in shared memory.
struct TileForm {
  int columns;  ///< of sums; half as many of `out` where gated
  bool gated;   ///< out = value * gelu(gate), the form with erf, whose weights are different rows

  constexpr int out_columns() const { return gated ? columns / 2 : columns; }
  constexpr int stage_bytes() const { return (kTileRows + columns) * kTileDepth * 2; }
  /// Where one of the two warpgroups puts its results before it stores them as rows.
  constexpr int staging_bytes() const { return kTileRows * out_columns() * 2; }
  constexpr int stages() const {
    constexpr int kMost = 227 * 1024 - kRest, kEnough = 6;
    const int fit = (kMost - 2 * staging_bytes()) / stage_bytes();
    return fit < kEnough ? fit : kEnough;
  }
  constexpr int shared_bytes() const { return stages() * stage_bytes() + 2 * staging_bytes() + kRest; }

 private:
  static constexpr int kRest = 1024 + 128;  // to align the stages, and barriers
};

/// The order in which tiles are made, two at a time: those of the same columns, one below the other. So many pairs of rows
/// (`group`) come before the next columns.
struct TileOrder {
  int pair_rows, columns, group;

  struct Place {
    int pair_row, column;
  };
  constexpr TileOrder(int m, int n, int out_columns, int group_rows)
      : pair_rows((m + 2 * kTileRows - 1) / (2 * kTileRows)), columns((n + out_columns - 1) / out_columns), group(group_rows) {}
  constexpr int pairs() const { return pair_rows * columns; }
  constexpr Place place(int pair) const {
    const int whole = group * columns, first = pair / whole * group, rest = pair % whole;
    const int rows = group < pair_rows - first ? group : pair_rows - first;
    return {first + rest % rows, rest / rows};
  }
};

/// Where chunks of 16 bytes of a warp's results lie in shared memory before they are stored: rows follow each other, and in each
/// some chunks trade places, so that 8 rows of the same chunk lie in different banks, as neighbours of a row do.
template <int kColumns>
struct StagedRows {
  static constexpr int kChunks = kColumns / 8;
  /// Which of so many neighbouring chunks trade places depends on the row. Eight rows further it is the same.
  static constexpr int kMask = kChunks % 8 == 0 ? 7 : kChunks % 8 == 4 ? 3 : kChunks % 4 == 2 ? 1 : 0;
  static constexpr uint32_t offset(int row, int chunk) {
    const int traded = row / (8 / (kMask + 1)) & kMask;
    return uint32_t(row * kChunks + (chunk & ~kMask) + ((chunk & kMask) ^ traded)) * 16;
  }
};

}  // namespace sinter::device
