#pragma once
#include "backends/cpu/microkernels.h"
#include "base/rounding.h"
#include "tensor/dtype.h"

namespace sinter {

/// How a weight matrix [n, groups * k] lies in memory once packed: panels of `columns` rows of the matrix side by side, each
/// panel contiguous over all of k, group after group. In pair types a group is padded to an even length with zeros; the last
/// panel is padded with zero columns to half a panel or a whole one.
struct PanelLayout {
  PanelType type = PanelType::f32;
  int64_t n = 0, k = 0;
  int groups = 1;    ///< rows of a convolution's window; 1 for matrices
  int columns = 32;  ///< Microkernels::panel_columns()

  bool pairs() const { return type == PanelType::bf16 || type == PanelType::bf16_dot; }
  int64_t element_bytes() const { return type == PanelType::f32 ? 4 : 2; }
  int64_t group_length() const { return pairs() ? round_up(k, 2) : k; }
  int64_t panels() const { return divide_up(n, columns); }
  int panel_columns(int64_t panel) const { return n - panel * columns <= columns / 2 ? columns / 2 : columns; }
  int64_t panel_offset(int64_t panel) const { return panel * columns * groups * group_length() * element_bytes(); }
  /// True if the panels that end with column `end` have no padding columns.
  bool ends_whole(int64_t end) const {
    return end < n ? end % columns == 0 : panel_columns(panels() - 1) == n - (panels() - 1) * columns;
  }
  /// Bytes of the packed matrix, a multiple of 64.
  int64_t bytes() const {
    int64_t last = panels() - 1;
    return n ? round_up(panel_offset(last) + panel_columns(last) * groups * group_length() * element_bytes(), 64) : 0;
  }
};

inline PanelLayout panel_layout(PanelType type, int64_t n, int64_t k, int groups, const Microkernels& kernels) {
  return {type, n, k, groups, kernels.panel_columns()};
}

/// Rows of A and of the tile that one microkernel call computes.
struct RowBlock {
  const char* a;
  int64_t tile_row;
  int rows;
};

/// What is summed over: for each group and tap, `channels` elements of A that begin at an offset from each row's address.
struct Reduction {
  int groups = 1;
  int64_t group_bytes = 0;  ///< from one group to the next in A
  int taps = 1;
  int64_t tap_bytes = 0;
  int64_t channels = 0;        ///< elements of one tap; taps * channels is the layout's k
  int64_t outer_channels = 0;  ///< how many channels are used before the next panel, so that the part of A stays in cache
  int64_t inner_channels = 0;  ///< how many before the next row block, so that the part of the panel stays in the nearest cache
};

/// Fills tile[rows of the blocks, columns of panels [panel_begin, panel_end)] with the products. `a_row_bytes` is the
/// distance of the rows of one block; `tile_stride` in floats is at least the padded columns of the panels.
void multiply_panels(const Microkernels& kernels, const PanelLayout& layout, const char* packed, const Reduction& reduction,
                     const RowBlock* blocks, int block_count, int64_t a_row_bytes, int64_t panel_begin, int64_t panel_end,
                     float* tile, int64_t tile_stride);

/// `channels` cut evenly into parts of about `limit`, each a multiple of 16.
int64_t even_part(int64_t channels, int64_t limit);

/// A row stride in bytes of at least `bytes` for scratch matrices whose rows do not fall onto the same cache sets.
int64_t scratch_row_bytes(int64_t bytes);

/// How many columns a chunk gets (a multiple of the panel's) when `tiles` row tiles times their chunks are handed out as pieces.
/// `seconds` is the estimated time of the whole call on one thread.
int64_t chunk_columns(int64_t n, int panel_columns, int64_t tiles, int threads, double seconds);

/// A rough time of one thread, for the sizes of pieces alone.
double estimated_seconds(double multiply_adds, double weight_bytes, const Microkernels& kernels, PanelType type);

}  // namespace sinter
