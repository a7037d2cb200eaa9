#pragma once
// What becomes of a tile's sums on devices of capability 9.0: scale, bias, GELU or gates, what is added, and rows of 16 bits in
// memory. Each warp of a warpgroup does this for its rows by itself, through shared memory of its own.
#include "backends/cuda/kernels/gelu.h"
#include "backends/cuda/kernels/hopper_intrinsics.h"
#include "backends/cuda/kernels/tile_product_arguments.h"

namespace sinter::device {

template <bool kBf16>
SINTER_DEVICE_INLINE float low_of(uint32_t pair) {
  return kBf16 ? as_float(pair << 16) : f16_bits_to_float(uint16_t(pair));
}
template <bool kBf16>
SINTER_DEVICE_INLINE float high_of(uint32_t pair) {
  return kBf16 ? as_float(pair & 0xffff0000u) : f16_bits_to_float(uint16_t(pair >> 16));
}

/// RowMap says where a tile's rows go: tile(first row), counted through all tiles, and out_row(tile, row of it), -1: nowhere.
template <int kColumns, bool kGated, bool kBf16, class RowMap>
struct TileResults {
  static constexpr bool kHasGates = kGated;
  static constexpr int kOut = kGated ? kColumns / 2 : kColumns;
  static constexpr int kBlocks = kTileRows / 64;  // of the rows of one instruction
  static constexpr int kSums = kColumns / 2;      // of a thread and block
  using Sums = float[kBlocks][kSums];
  using Rows = StagedRows<kOut>;

  const TileProductArguments& args;
  const RowMap& map;
  const int warp, lane;  // warp: of the warpgroup
  uint32_t staging;      // this warp's, where its results lie before they are stored

  /// Sums are not read before here.
  static SINTER_DEVICE_INLINE void settle_all(Sums& sums) {
    SINTER_UNROLL
    for (int b = 0; b < kBlocks; ++b) settle(sums[b]);
  }

  static constexpr int kAcross = Rows::kChunks % 4 == 0 ? 4 : 2, kDown = 32 / kAcross;  // lanes beside and below each other
  static constexpr int kLaneRows = 16 * kBlocks / kDown, kRowChunks = Rows::kChunks / kAcross;  // a lane's

  /// Calls body(i-th row of this lane's, j-th chunk of it, where that is staged).
  template <class Body>
  SINTER_DEVICE_INLINE void for_each_staged(const Body& body) const {
    SINTER_UNROLL
    for (int i = 0; i < kLaneRows; ++i) {
      SINTER_UNROLL
      for (int j = 0; j < kRowChunks; ++j)
        body(i, j, staging + Rows::offset(i * kDown + lane / kAcross, j * kAcross + lane % kAcross));
    }
  }
  /// Where a lane's chunks are in a matrix.
  struct Chunks {
    uint64_t rows[kLaneRows];  // addresses of their first chunks; 0: nowhere
    int columns;               // so many of the matrix begin there

    SINTER_DEVICE_INLINE bool inside(int i, int j) const { return rows[i] && j * kAcross * 8 < columns; }
    SINTER_DEVICE_INLINE uint64_t at(int i, int j) const { return rows[i] + uint64_t(j * kAcross * 16); }
  };
  SINTER_DEVICE_INLINE Chunks chunks_of(uint64_t matrix, int64_t stride, int first_row, int first_column) const {
    const auto tile = map.tile(first_row);
    const int column = first_column + lane % kAcross * 8;
    Chunks chunks;
    chunks.columns = args.n - column;
    SINTER_UNROLL
    for (int i = 0; i < kLaneRows; ++i) {
      const int row = map.out_row(tile, i * kDown / 16 * 64 + warp * 16 + i * kDown % 16 + lane / kAcross);
      chunks.rows[i] = row < 0 ? 0 : matrix + uint64_t(row * stride + column) * 2;
    }
    return chunks;
  }

  /// Starts bringing what will be added to where the results will be.
  SINTER_DEVICE_INLINE void fetch_residual(int first_row, int first_column) const {
    warp_barrier();  // all have stored what was there
    const Chunks from = chunks_of(args.residual, args.residual_stride, first_row, first_column);
    for_each_staged([&](int i, int j, uint32_t staged) SINTER_INLINE_LAMBDA {
      copy_chunk(staged, from.inside(i, j) ? from.at(i, j) : args.residual, from.inside(i, j));
    });
    copy_async_commit();
  }

  /// A bias of a thread's columns, by pairs: read before its sums are made, nobody waits for it. What lies outside is never
  /// stored.
  struct Bias {
    uint32_t pairs[kColumns / 8];
  };
  SINTER_DEVICE_INLINE Bias bias(uint64_t from, int first_column) const {
    Bias bias = {};
    if (!from) return bias;
    SINTER_UNROLL
    for (int j = 0; j < kColumns / 8; ++j) {
      const bool gates = kGated && j >= kOut / 8;
      const int column = first_column + (gates ? j - kOut / 8 : j) * 8 + lane % 4 * 2;
      const uint64_t at = from + uint64_t((gates ? args.gate : 0) + column) * 2;
      if (column < args.n) bias.pairs[j] = *reinterpret_cast<const Global<uint32_t>*>(at);
    }
    return bias;
  }
  static SINTER_DEVICE_INLINE void add(Sums& sums, const Bias& bias) {
    SINTER_UNROLL
    for (int j = 0; j < kColumns / 8; ++j) {
      SINTER_UNROLL
      for (int half = 0; half < 2 * kBlocks; ++half) {
        float* own = sums[half / 2] + j * 4 + half % 2 * 2;
        own[0] += low_of<kBf16>(bias.pairs[j]);
        own[1] += high_of<kBf16>(bias.pairs[j]);
      }
    }
  }
  template <class Body>
  static SINTER_DEVICE_INLINE void for_each_sum(Sums& sums, int count, const Body& body) {
    SINTER_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      SINTER_UNROLL
      for (int i = 0; i < count; ++i) body(sums[b], i);
    }
  }
  /// Calls body(two sums of a row, where they are staged).
  template <class Body>
  SINTER_DEVICE_INLINE void for_each_pair(Sums& sums, const Body& body) const {
    Shared<uint32_t>* places[Rows::kMask + 1];
    SINTER_UNROLL
    for (int i = 0; i <= Rows::kMask; ++i) places[i] = &shared_at<uint32_t>(staging + Rows::offset(lane / 4, i)) + lane % 4;
    SINTER_UNROLL
    for (int j = 0; j < Rows::kChunks; ++j) {
      SINTER_UNROLL
      for (int half = 0; half < 2 * kBlocks; ++half)
        body(sums[half / 2] + j * 4 + half % 2 * 2, places[j & Rows::kMask][(half * 8 * Rows::kChunks + (j & ~Rows::kMask)) * 4]);
    }
  }

  SINTER_DEVICE_INLINE void finish(Sums& sums, const Bias& bias, int first_row, int first_column) const {
    if (args.scale != 1.f) for_each_sum(sums, kSums, [&](float* of, int i) SINTER_INLINE_LAMBDA { of[i] *= args.scale; });
    if (args.bias) add(sums, bias);
    if (kGated)
      for_each_sum(sums, kSums / 2, [](float* of, int i) SINTER_INLINE_LAMBDA { of[i] *= gelu_erf(of[kSums / 2 + i]); });
    else if (args.gelu)
      for_each_sum(sums, kSums, [](float* of, int i) SINTER_INLINE_LAMBDA { of[i] = gelu_tanh(of[i]); });
    if (!kGated && args.residual) {
      copy_async_wait<0>();
      warp_barrier();
      for_each_pair(sums, [](float* two, Shared<uint32_t>& at) SINTER_INLINE_LAMBDA {
        const uint32_t more = at;
        two[0] += low_of<kBf16>(more);
        two[1] += high_of<kBf16>(more);
      });
    }
    warp_barrier();  // all have stored what was there, or read what is added
    for_each_pair(sums, [](float* two, Shared<uint32_t>& at) SINTER_INLINE_LAMBDA { at = pair_of<kBf16>(two[0], two[1]); });
    warp_barrier();
    // Read together, or a warp that is alone on its scheduler would wait for each.
    Words4 words[kLaneRows][kRowChunks];
    for_each_staged([&](int i, int j, uint32_t staged) SINTER_INLINE_LAMBDA { words[i][j] = shared_at<Words4>(staged); });
    const Chunks to = chunks_of(args.out, args.out_stride, first_row, first_column);
    for_each_staged([&](int i, int j, uint32_t) SINTER_INLINE_LAMBDA {
      if (to.inside(i, j)) *reinterpret_cast<Global<Words4>*>(to.at(i, j)) = words[i][j];
    });
  }
};

/// The RowMap of matrices. A tile begins at `row`, a multiple of its rows, counted through all tiles.
struct MatrixRows {
  const TileProductArguments& args;

  struct Tile {
    int row;
  };
  SINTER_DEVICE_INLINE Tile tile(int row) const { return {row}; }
  /// The row of the results, and of what is added, for one of a tile's; -1: none.
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const { return tile.row + row < args.m ? tile.row + row : -1; }
};

}  // namespace sinter::device
