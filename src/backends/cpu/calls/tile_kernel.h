#pragma once
#include <array>
#include <vector>

#include "base/error.h"
#include "compiler/kernel/row_kernel.h"

namespace sinter {

/// A row kernel fused into a call. Some of its operands are tiles in scratch memory (RowAccess::flat): the call sets their
/// addresses, moved so that base + row * stride + column hits the tile for global rows and columns, and their strides.
struct TileKernel {
  RowKernelFunction function = nullptr;
  std::vector<char*> operands;  ///< those of tiles are ignored
  std::vector<int64_t> params;
  std::vector<int> tile_operands;       ///< which operands are tiles; a call says how many it wants and in which order
  std::vector<int> tile_stride_params;  ///< for each tile, where params keep its row stride (elements)
};

/// A TileKernel with its strides set: made once a call, then run on many tiles, from many threads.
class TileKernelCall {
 public:
  static constexpr int kOperands = kMaxFusedOperands, kParams = kMaxFusedParams, kTiles = kMaxTiles;

  TileKernelCall(const TileKernel& kernel, int tiles, int64_t stride) : kernel_(kernel), tiles_(tiles) {
    SINTER_ASSERT(int(kernel.tile_operands.size()) == tiles && int(kernel.tile_stride_params.size()) == tiles && tiles <= kTiles);
    SINTER_ASSERT(kernel.operands.size() <= kOperands && kernel.params.size() <= kParams);
    std::copy(kernel.params.begin(), kernel.params.end(), params_.begin());
    for (int at : kernel.tile_stride_params) params_[size_t(at)] = stride;
  }

  /// bases[i]: the moved address of tile i.
  void operator()(char* const* bases, int64_t row_begin, int64_t row_end, int64_t column_begin, int64_t column_end) const {
    std::array<char*, kOperands> operands;
    std::copy(kernel_.operands.begin(), kernel_.operands.end(), operands.begin());
    for (int i = 0; i < tiles_; ++i) operands[size_t(kernel_.tile_operands[size_t(i)])] = bases[i];
    kernel_.function(operands.data(), params_.data(), row_begin, row_end, column_begin, column_end);
  }

 private:
  const TileKernel& kernel_;
  int tiles_;
  std::array<int64_t, kParams> params_;
};

}  // namespace sinter
