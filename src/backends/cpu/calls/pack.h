#pragma once
#include "backends/cpu/calls/panels.h"
#include "base/thread_pool.h"

namespace sinter {

/// Rows [first_row, first_row + rows) of a weight matrix for packing: a matrix may be put together from several, in any order.
/// `source` is what a checkpoint holds: row-major [rows, k], or [rows, channels, height, width] for a convolution. It may be a
/// mapped file, and needs no alignment.
struct PackSource {
  const void* source = nullptr;
  DType type = DType::f32;  ///< f32, f16, bf16, f8e4m3, f8e5m2 or another float type; converted to the panels' type
  int64_t first_row = 0, rows = 0;
};

/// Packs rows of a matrix (layout.groups == 1). Columns of padding are written by whoever packs the last row.
void pack_matrix(const PanelLayout& layout, const PackSource& source, void* packed, ThreadPool& pool);

/// The layout of convolution weights: k is (window column, channel), a group is a window row.
PanelLayout conv_layout(PanelType type, int64_t out_channels, int64_t channels, int height, int width,
                        const Microkernels& kernels);
void pack_conv(const PanelLayout& layout, const PackSource& source, int64_t channels, int height, int width, void* packed,
               ThreadPool& pool);

}  // namespace sinter
