#include "backends/cpu/calls/panels.h"

#include <algorithm>

namespace sinter {

void multiply_panels(const Microkernels& kernels, const PanelLayout& layout, const char* packed, const Reduction& reduction,
                     const RowBlock* blocks, int block_count, int64_t a_row_bytes, int64_t panel_begin, int64_t panel_end,
                     float* tile, int64_t tile_stride) {
  const bool dot = layout.type == PanelType::bf16_dot;
  const int64_t a_bytes = dot ? 2 : 4;
  for (int64_t outer = 0; outer < reduction.channels; outer += reduction.outer_channels) {
    int64_t outer_end = std::min(reduction.channels, outer + reduction.outer_channels);
    for (int64_t panel = panel_begin; panel < panel_end; ++panel) {
      int columns = layout.panel_columns(panel);
      const Microkernel* by_rows = kernels.table[int(layout.type)][columns / kernels.vector_floats - 1];
      const char* b = packed + layout.panel_offset(panel);
      float* c = tile + (panel - panel_begin) * layout.columns;
      bool first = outer == 0;
      for (int group = 0; group < reduction.groups; ++group) {
        for (int tap = 0; tap < reduction.taps; ++tap) {
          for (int64_t k = outer; k < outer_end; k += reduction.inner_channels) {
            int64_t length = std::min(reduction.inner_channels, outer_end - k);
            const char* part =
                b + (group * layout.group_length() + tap * reduction.channels + k) * columns * layout.element_bytes();
            int64_t a_offset = group * reduction.group_bytes + tap * reduction.tap_bytes + k * a_bytes;
            for (int i = 0; i < block_count; ++i) {
              const RowBlock& block = blocks[i];
              by_rows[block.rows - 1](block.a + a_offset, a_row_bytes, part, dot ? (length + 1) / 2 : length,
                                      c + block.tile_row * tile_stride, tile_stride * 4, !first);
            }
            first = false;
          }
        }
      }
    }
  }
}

int64_t even_part(int64_t channels, int64_t limit) {
  limit = std::max<int64_t>(limit, 16);
  return std::min(channels, round_up(divide_up(channels, divide_up(channels, limit)), 16));
}

int64_t scratch_row_bytes(int64_t bytes) {
  int64_t lines = divide_up(bytes, 64);
  return (lines % 2 || lines <= 2 ? lines : lines + 1) * 64;
}

int64_t chunk_columns(int64_t n, int panel_columns, int64_t tiles, int threads, double seconds) {
  constexpr double kLeastSeconds = 15e-6;  // of a piece: handing it out costs under a microsecond, the wait at the end half of it
  int64_t panels = divide_up(n, panel_columns);
  if (threads == 1 || tiles >= 6 * threads) return panels * panel_columns;
  int64_t pieces = std::clamp<int64_t>(int64_t(seconds / kLeastSeconds), threads, 12 * threads);
  int64_t chunks = std::clamp<int64_t>(divide_up(pieces, tiles), 1, panels);
  return divide_up(panels, chunks) * panel_columns;
}

double estimated_seconds(double multiply_adds, double weight_bytes, const Microkernels& kernels, PanelType type) {
  double rate = 3e9 * 2 * kernels.vector_floats * (type == PanelType::bf16_dot ? 2 : 1);
  return std::max(multiply_adds / rate, weight_bytes / 12e9);
}

}  // namespace sinter
