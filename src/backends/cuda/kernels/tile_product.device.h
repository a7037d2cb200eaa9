#pragma once
// Products of 16-bit matrices on devices of capability 9.0, out = epilogue(a . weights^T), rows of both being dense in k.
//
// A block has three warpgroups. The first lets the copying unit bring tiles of both matrices through a ring of stages in shared
// memory; the other two multiply from there into registers and take turns: while one finishes and stores its tile, the other
// multiplies the next. Two neighbouring blocks make tiles of the same columns, and each brings half of the weights' tile for
// both. Blocks stay, and go from tile to tile.
//
// A kernel begins while those before it still run: barriers are made and the first tiles of weights come, which no kernel of the
// stream writes where the caller says so. All other memory is touched behind wait_for_operands() alone: the copying unit is only
// told to read `a` by a thread that waited, and every thread that multiplies waits before it does anything.
//
// Of 128 x 160 sums and 64 columns, 36 KB are written to shared memory, 26 KB of them read from the second cache, and 56 KB read
// from it, in the 640 cycles that the multiplying units need.
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

/// Where the rows of `a` come from and those of the results go: here from and to matrices. A tile begins at `row`, a multiple of
/// its rows, counted through all tiles.
struct MatrixRows {
  /// Weights come in rows of one column of `a` each.
  static constexpr bool kTurned = false;
  const TileProductArguments& args;

  /// What one step multiplies, by its number.
  struct Step {
    int column;
  };
  SINTER_DEVICE_INLINE Step step(int number) const { return {number * kTileDepth}; }
  SINTER_DEVICE_INLINE void advance(Step& step) const { step.column += kTileDepth; }
  struct Tile {
    int row;
  };
  SINTER_DEVICE_INLINE Tile tile(int row) const { return {row}; }

  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, const Step& step, const Tile& tile, uint32_t barrier) const {
    copy_tile(to, map, step.column, tile.row, barrier);
  }
  SINTER_DEVICE_INLINE void copy_weights(uint32_t to, uint64_t map, const Step& step, const Tile&, int weight,
                                         uint32_t barrier) const {
    copy_tile_to_pair(to, map, step.column, weight, barrier);
  }
  /// The row of the results, and of what is added, for one of a tile's; -1: none.
  SINTER_DEVICE_INLINE int out_row(const Tile& tile, int row) const { return tile.row + row < args.m ? tile.row + row : -1; }
};

template <int kColumns, bool kGated, bool kBf16, class RowMap = MatrixRows>
struct TileProduct {
  static constexpr TileForm kForm{kColumns, kGated};
  static constexpr int kStages = kForm.stages(), kStageBytes = kForm.stage_bytes(), kLeftBytes = kTileRows * kTileDepth * 2;
  static constexpr int kOut = kForm.out_columns();
  static constexpr int kBlocks = kTileRows / 64;  // of the rows of one instruction
  static constexpr int kSums = kColumns / 2;      // of a thread and block
  static constexpr int kReaders = 4 * 2;          // warps of both blocks that free a stage
  static constexpr int kTurn = 1;                 // named barriers kTurn and kTurn + 1: when a warpgroup may multiply
  using Sums = float[kBlocks][kSums];
  using Rows = StagedRows<kOut>;

  const TileProductArguments& args;
  const RowMap map;
  const TileOrder order;
  const int group, warp, lane;                  // group: of the two that multiply
  uint32_t stages, staging, full, empty, rank;  // all but the last: addresses in shared memory; staging: this warp's
  int steps, first_pair, next_pair;

  SINTER_DEVICE_INLINE TileProduct(const TileProductArguments& a, const RowMap& rows)
      : args(a),
        map(rows),
        order(a.m, a.n, kOut, a.group),
        group(thread_x() / 128 - 1),
        warp(thread_x() / 32 % 4),
        lane(thread_x() % 32) {
    stages = (shared_address(shared_memory()) + 1023) & ~1023u;
    const uint32_t behind = stages + kStages * kStageBytes;
    staging = behind + uint32_t(group * 4 + warp) * (kForm.staging_bytes() / 4);
    full = behind + 2 * kForm.staging_bytes();
    empty = full + 8 * kStages;
    rank = rank_in_pair();
    steps = divide_up(args.k, kTileDepth);
    first_pair = block_x() / 2;
    next_pair = blocks_x() / 2;
  }

  SINTER_DEVICE_INLINE void prepare() {
    if (thread_x() == 0) {
      for (int s = 0; s < kStages; ++s) {
        make_barrier(full + 8 * s, 1);
        make_barrier(empty + 8 * s, kReaders);
      }
      publish_barriers();
    }
    pair_barrier();
  }

  /// Announces what a stage will hold, and starts bringing this block's half of the weights to both.
  SINTER_DEVICE_INLINE void bring_weights(uint64_t weights_map, int column, const typename RowMap::Tile& tile,
                                          const typename RowMap::Step& step, int stage) const {
    constexpr int kHalf = kColumns / 2;
    const uint32_t at = stages + stage * kStageBytes + kLeftBytes + rank * kHalf * kTileDepth * 2, barrier = full + 8 * stage;
    const int row = column * kOut + int(rank) * (kGated ? args.gate : kHalf);
    arrive_expecting(barrier, kStageBytes);
    map.copy_weights(at, weights_map, step, tile, row, barrier);
  }
  /// The same for the first steps of this block's first tile.
  SINTER_DEVICE_INLINE void bring_weights_early(uint64_t weights_map, int count) const {
    const auto [pair_row, column] = order.place(first_pair);
    const auto tile = map.tile((pair_row * 2 + int(rank)) * kTileRows);
    auto what = map.step(0);
    for (int step = 0; step < count; ++step, map.advance(what)) bring_weights(weights_map, column, tile, what, step);
  }

  /// One thread would do; but the others of its warp, waiting elsewhere, would hold it up.
  SINTER_DEVICE_INLINE void bring(uint64_t maps) {
    const uint64_t left_map = maps, weights_map = maps + sizeof(TileMaps::a);
    prefetch_map(left_map);
    prefetch_map(weights_map);
    int early = args.early_weights ? least(kStages, steps) : 0;
    if (thread_x() == 0) bring_weights_early(weights_map, early);
    wait_for_operands();
    int stage = 0;
    uint32_t parity = 1;  // nobody waits for a stage that was never used
    for (int pair = first_pair; pair < order.pairs(); pair += next_pair) {
      const auto [pair_row, column] = order.place(pair);
      const auto tile = map.tile((pair_row * 2 + int(rank)) * kTileRows);
      auto what = map.step(0);
      for (int step = 0; step < steps; ++step, map.advance(what)) {
        wait_phase(empty + 8 * stage, parity);
        if (thread_x() == 0) {
          if (early == 0) bring_weights(weights_map, column, tile, what, stage);
          map.copy_rows(stages + stage * kStageBytes, left_map, what, tile, full + 8 * stage);
        }
        if (early > 0) --early;
        warp_barrier();
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
    }
  }

  SINTER_DEVICE_INLINE void release(int stage) const {
    if (lane < 2) arrive_in_pair(empty + 8 * stage, lane);
  }

  /// Multiplies what a stage holds, once it is there. kFirst: the sums begin.
  template <bool kFirst>
  SINTER_DEVICE_INLINE void start_step(Sums& sums, int stage, uint32_t parity) const {
    wait_phase(full + 8 * stage, parity);
    const uint32_t at = stages + stage * kStageBytes;
    const uint64_t left = product_operand(at);
    const uint64_t right =
        RowMap::kTurned ? summed_rows_operand(at + kLeftBytes, kTileDepth * 128) : product_operand(at + kLeftBytes);
    begin_products();
    SINTER_UNROLL
    for (int i = 0; i < kTileDepth / 16; ++i) {
      SINTER_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        const uint64_t rows = left + uint64_t(i * 2 + b * 512), columns = right + uint64_t(i * (RowMap::kTurned ? 128 : 2));
        if (kFirst && i == 0)
          start_product<kBf16, true, RowMap::kTurned>(sums[b], rows, columns);
        else
          start_product<kBf16, false, RowMap::kTurned>(sums[b], rows, columns);
      }
    }
    commit_products();
  }

  SINTER_DEVICE_INLINE void multiply() {
    wait_for_operands();
    if (group == 1 && first_pair < order.pairs()) named_arrive(kTurn, 256);
    int sequence = group;
    for (int pair = first_pair + group * next_pair; pair < order.pairs(); pair += 2 * next_pair, sequence += 2) {
      const auto [pair_row, column] = order.place(pair);
      const int row = (pair_row * 2 + int(rank)) * kTileRows;
      if (!kGated && args.residual) fetch_residual(row, column * kOut);
      Sums sums;
      const uint32_t before = uint32_t(sequence) * uint32_t(steps);
      int stage = int(before % kStages), last = stage;
      uint32_t parity = before / kStages & 1;
      named_barrier(kTurn + group, 256);
      start_step<true>(sums, stage, parity);
      if (++stage == kStages) stage = 0, parity ^= 1;
      for (int step = 1; step < steps; ++step) {
        start_step<false>(sums, stage, parity);
        wait_products<1>();
        release(last);
        last = stage;
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
      if (pair + next_pair < order.pairs()) named_arrive(kTurn + 1 - group, 256);
      wait_products<0>();
      release(last);
      SINTER_UNROLL
      for (int b = 0; b < kBlocks; ++b) settle(sums[b]);
      finish(sums, row, column * kOut);
    }
  }

  /// Calls body(row of the results or -1, column, address in staging) for chunks of this warp's rows, neighbours in a row
  /// together.
  template <class Body>
  SINTER_DEVICE_INLINE void for_each_chunk(int first_row, int first_column, const Body& body) const {
    const auto tile = map.tile(first_row);
    SINTER_UNROLL_SOME
    for (int i = 0; i < Rows::kChunks; ++i) {
      const int index = i * 32 + lane, r = index / Rows::kChunks, chunk = index % Rows::kChunks;
      const int row = map.out_row(tile, r / 16 * 64 + warp * 16 + r % 16);
      body(row, first_column + chunk * 8, staging + Rows::offset(r, chunk));
    }
  }

  /// Starts bringing what will be added to where the results will be.
  SINTER_DEVICE_INLINE void fetch_residual(int first_row, int first_column) const {
    warp_barrier();  // all have stored what was there
    for_each_chunk(first_row, first_column, [&](int row, int column, uint32_t at) SINTER_INLINE_LAMBDA {
      const bool inside = row >= 0 && column < args.n;
      const int64_t element = inside ? int64_t(row) * args.residual_stride + column : 0;
      copy_chunk(at, args.residual + uint64_t(element) * 2, inside);
    });
    copy_async_commit();
  }

  /// The bias of two columns; what lies outside is never stored.
  SINTER_DEVICE_INLINE uint32_t bias_pair(int column, int gate) const {
    return column < args.n ? *reinterpret_cast<const Global<uint32_t>*>(args.bias + uint64_t(gate + column) * 2) : 0;
  }
  SINTER_DEVICE_INLINE void add_bias(Sums& sums, int first_column) const {
    SINTER_UNROLL
    for (int j = 0; j < kColumns / 8; ++j) {
      const bool gates = kGated && j >= kOut / 8;
      const int column = first_column + (gates ? j - kOut / 8 : j) * 8 + lane % 4 * 2;
      const uint32_t bias = bias_pair(column, gates ? args.gate : 0);
      SINTER_UNROLL
      for (int half = 0; half < 2 * kBlocks; ++half) {
        float* own = sums[half / 2] + j * 4 + half % 2 * 2;
        own[0] += low_of<kBf16>(bias);
        own[1] += high_of<kBf16>(bias);
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

  SINTER_DEVICE_INLINE void finish(Sums& sums, int first_row, int first_column) const {
    if (args.scale != 1.f) for_each_sum(sums, kSums, [&](float* of, int i) SINTER_INLINE_LAMBDA { of[i] *= args.scale; });
    if (args.bias) add_bias(sums, first_column);
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
    for_each_chunk(first_row, first_column, [&](int row, int column, uint32_t at) SINTER_INLINE_LAMBDA {
      const Words4 words = shared_at<Words4>(at);
      if (row >= 0 && column < args.n)
        *reinterpret_cast<Global<Words4>*>(args.out + uint64_t(int64_t(row) * args.out_stride + column) * 2) = words;
    });
  }

  SINTER_DEVICE_INLINE void run(uint64_t maps) {
    prepare();
    if (group < 0) {
      fewer_registers<24>();
      if (thread_x() < 32) bring(maps);
    } else {
      more_registers<240>();
      multiply();
    }
    pair_barrier();  // the other may still write here, and count
  }
};

}  // namespace sinter::device

#define SINTER_TILE_PRODUCT(module, form, columns, gated, bf16)                                                                \
  SINTER_DEVICE_PAIR_KERNEL(module##__##form, sinter::device::TileMaps maps, sinter::device::TileProductArguments arguments) { \
    (void)maps;                                                                                                                \
    uint64_t at;                                                                                                               \
    SINTER_PARAMETER_ADDRESS(at, maps, module##__##form, 0);                                                                   \
    sinter::device::TileProduct<columns, gated, bf16>(arguments, {arguments}).run(at);                                         \
  }
/// The kernels of one form and type, a module of their own: the driver takes half a second to compile one.
#define SINTER_TILE_PRODUCTS(columns, type, bf16)                                   \
  SINTER_TILE_PRODUCT(tile_product_##columns##_##type, plain, columns, false, bf16) \
  SINTER_TILE_PRODUCT(tile_product_##columns##_##type, gated, columns, true, bf16)
