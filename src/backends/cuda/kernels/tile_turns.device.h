#pragma once
// How blocks of kernels that multiply tiles share out their work on devices of capability 9.0.
#include "backends/cuda/kernels/hopper_intrinsics.h"
#include "backends/cuda/kernels/tile_product_arguments.h"

namespace sinter::device {

/// Which tiles a thread helps to make. Two blocks are a pair, with tiles of the same columns, one below the other; pairs stay,
/// and go from tile to tile. Of a block's three warpgroups the first (group -1) brings what the others (0 and 1) multiply in
/// turns.
struct TileTurns {
  static constexpr int kWarps = 4;  // of a warpgroup

  const TileOrder order;
  const int group, warp, lane;  // warp: of the warpgroup
  const uint32_t rank;          // of the pair's blocks
  const int first_pair, next_pair;

  SINTER_DEVICE_INLINE TileTurns(const TileProductArguments& args, int out_columns)
      : order(args.m, args.n, out_columns, args.group),
        group(thread_x() / 128 - 1),
        warp(thread_x() / 32 % kWarps),
        lane(thread_x() % 32),
        rank(rank_in_cluster()),
        first_pair(block_x() / 2),
        next_pair(blocks_x() / 2) {}

  SINTER_DEVICE_INLINE int first_row(int pair_row) const { return (pair_row * 2 + int(rank)) * kTileRows; }

  /// Makes this warpgroup's tiles: calls multiply(sums, how many tiles of the block came before, first column, whether others
  /// follow), which waits for its turn and ends it.
  template <class Results, class Multiply>
  SINTER_DEVICE_INLINE void make_tiles(const Results& results, const Multiply& multiply) const {
    if (group == 1 && first_pair < order.pairs()) named_arrive(kTurn, 256);
    int before = group;
    for (int pair = first_pair + group * next_pair; pair < order.pairs(); pair += 2 * next_pair, before += 2) {
      const auto place = order.place(pair);
      const int row = first_row(place.pair_row), column = place.column * Results::kOut;
      if (!Results::kHasGates && results.args.residual) results.fetch_residual(row, column);
      const auto bias = results.bias(results.args.bias, column);
      typename Results::Sums sums;
      multiply(sums, before, column, pair + next_pair < order.pairs());
      results.finish(sums, bias, row, column);
    }
  }
  SINTER_DEVICE_INLINE void await_turn() const { named_barrier(kTurn + group, 256); }
  SINTER_DEVICE_INLINE void end_turn() const { named_arrive(kTurn + 1 - group, 256); }

 private:
  static constexpr int kTurn = 1;  // named barriers kTurn and kTurn + 1: when a warpgroup may multiply
};

}  // namespace sinter::device
