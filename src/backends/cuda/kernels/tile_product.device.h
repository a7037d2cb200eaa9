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
#include "backends/cuda/kernels/ring_place.device.h"
#include "backends/cuda/kernels/tile_results.device.h"
#include "backends/cuda/kernels/tile_turns.device.h"

namespace sinter::device {

/// What the tiles that are multiplied are brought of: two matrices. (tile_taps.device.h has others.)
struct MatrixOperands {
  /// Taps copy by functions of theirs. With such for matrices clang orders the loop of the copying warp in another way, which has
  /// not been timed.
  static constexpr bool kAreTaps = false;
  /// Registers of a thread of the warpgroup that brings, and of those that multiply.
  static constexpr int kBringing = 24, kMultiplying = 240;
  using Step = int;   ///< where along k both are; its number is what it converts to
  using Place = int;  ///< of a tile's rows

  static SINTER_DEVICE_INLINE Step first_step() { return 0; }
  static SINTER_DEVICE_INLINE Place place(int row) { return row; }
};

template <int kColumns, bool kGated, bool kBf16, class Operands = MatrixOperands>
struct TileProduct : TileTurns {
  static constexpr TileForm kForm{kColumns, kGated};
  static constexpr int kStages = kForm.stages(), kStageBytes = kForm.stage_bytes(), kLeftBytes = kTileRows * kTileDepth * 2;
  static constexpr int kOut = kForm.out_columns();
  static constexpr int kReaders = 2 * kWarps;  // of both blocks, that free a stage
  using Results = TileResults<kColumns, kGated, kBf16, MatrixRows>;
  using Sums = typename Results::Sums;
  using OperandStep = typename Operands::Step;

  const TileProductArguments& args;
  const Operands operands;
  uint32_t stages, full, empty;  // addresses in shared memory
  int steps;

  SINTER_DEVICE_INLINE explicit TileProduct(const TileProductArguments& a, const Operands& o = {})
      : TileTurns(a, kOut), args(a), operands(o) {
    stages = (shared_address(shared_memory()) + 1023) & ~1023u;
    full = stages + kStages * kStageBytes + 2 * kForm.staging_bytes();
    empty = full + 8 * kStages;
    steps = divide_up(args.k, kTileDepth);
  }

  SINTER_DEVICE_INLINE void prepare() {
    if (thread_x() == 0) {
      for (int s = 0; s < kStages; ++s) {
        make_barrier(full + 8 * s, 1);
        make_barrier(empty + 8 * s, kReaders);
      }
      publish_barriers();
    }
    cluster_arrive();
    cluster_wait();
  }

  /// Announces what a stage will hold, and starts bringing this block's half of the weights to both.
  SINTER_DEVICE_INLINE void bring_weights(uint64_t weights_map, int column, OperandStep step, int stage) const {
    constexpr int kHalf = kColumns / 2;
    const uint32_t at = stages + stage * kStageBytes + kLeftBytes + rank * kHalf * kTileDepth * 2, barrier = full + 8 * stage;
    const int row = column * kOut + int(rank) * (kGated ? args.gate : kHalf);
    arrive_expecting(barrier, kStageBytes);
    if constexpr (Operands::kAreTaps)
      operands.copy_weights(at, weights_map, step, row, barrier);
    else
      copy_tile_to_pair(at, weights_map, step * kTileDepth, row, barrier);
  }
  /// The same for the first steps of this block's first tile.
  SINTER_DEVICE_INLINE void bring_weights_early(uint64_t weights_map, int count) const {
    const int column = order.place(first_pair).column;
    for (OperandStep step = operands.first_step(); step < count; ++step) bring_weights(weights_map, column, step, step);
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
      const auto place = operands.place(first_row(pair_row));
      for (OperandStep step = operands.first_step(); step < steps; ++step) {
        wait_phase(empty + 8 * stage, parity);
        if (thread_x() == 0) {
          if (early == 0) bring_weights(weights_map, column, step, stage);
          if constexpr (Operands::kAreTaps)
            operands.copy_left(stages + stage * kStageBytes, left_map, step, place, full + 8 * stage);
          else
            copy_tile(stages + stage * kStageBytes, left_map, step * kTileDepth, place, full + 8 * stage);
        }
        if (early > 0) --early;
        warp_barrier();
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
    }
    // The other block counts at these barriers as well: it must find them.
    for (int s = 0; s < kStages; ++s) {
      wait_phase(empty + 8 * stage, parity);
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
  }

  SINTER_DEVICE_INLINE void release(int stage) const {
    if (lane < 2) arrive_in_cluster(empty + 8 * stage, lane);
  }

  /// A stage, where its operands lie as products are told, and whether they are there.
  struct Step {
    RingPlace stage;
    uint64_t left;
    bool ready;
  };
  SINTER_DEVICE_INLINE Step step_at(const RingPlace& stage) const {
    return {stage, product_operand(stages + stage.at * kStageBytes), false};
  }
  template <bool kFirst>
  static SINTER_DEVICE_INLINE void start_columns(Sums& sums, uint64_t left, int i) {
    SINTER_UNROLL
    for (int b = 0; b < Results::kBlocks; ++b)
      start_product<kBf16, kFirst>(sums[b], left + uint64_t(i * 2 + b * 512), left + uint64_t(kLeftBytes / 16 + i * 2));
  }
  /// Multiplies what a stage holds, once it is there. Only few products are queued at a time: when the last of a step has been
  /// started there is little time until the first of the next must be. So that is prepared among them, in one piece of code
  /// without branches, or each piece would count as a group. kFirst: the sums begin.
  template <bool kFirst>
  SINTER_DEVICE_INLINE void start_step(Sums& sums, Step& at) const {
    if (!at.ready) wait_phase(full + 8 * at.stage.at, at.stage.parity);
    const uint64_t left = at.left;
    begin_products();
    start_columns<kFirst>(sums, left, 0);
    start_columns<false>(sums, left, 1);
    at.stage.advance(kStages);
    at = step_at(at.stage);
    at.ready = phase_ended(full + 8 * at.stage.at, at.stage.parity);
    start_columns<false>(sums, left, 2);
    start_columns<false>(sums, left, 3);
    commit_products();
  }
  static_assert(kTileDepth == 4 * 16);

  SINTER_DEVICE_INLINE void multiply() {
    wait_for_operands();
    const MatrixRows rows{args};
    const Results results{args, rows, warp, lane,
                          stages + kStages * kStageBytes + uint32_t(group * kWarps + warp) * (kForm.staging_bytes() / kWarps)};
    make_tiles(results, [&](Sums& sums, int tiles_before, int, bool others_follow) SINTER_INLINE_LAMBDA {
      Step at = step_at(RingPlace::after(uint32_t(tiles_before) * uint32_t(steps), kStages));
      int last = at.stage.at;
      await_turn();
      start_step<true>(sums, at);
      for (int step = 1; step < steps; ++step) {
        const int stage = at.stage.at;
        start_step<false>(sums, at);
        wait_products<1>();
        release(last);
        last = stage;
      }
      if (others_follow) end_turn();
      wait_products<0>();
      release(last);
      Results::settle_all(sums);
    });
  }

  SINTER_DEVICE_INLINE void run(uint64_t maps) {
    prepare();
    if (group < 0) {
      fewer_registers<Operands::kBringing>();
      if (thread_x() < 32) bring(maps);
    } else {
      more_registers<Operands::kMultiplying>();
      multiply();
    }
  }
};

}  // namespace sinter::device

#define SINTER_TILE_PRODUCT(module, form, columns, gated, bf16)                                                                \
  SINTER_DEVICE_PAIR_KERNEL(module##__##form, sinter::device::TileMaps maps, sinter::device::TileProductArguments arguments) { \
    (void)maps;                                                                                                                \
    uint64_t at;                                                                                                               \
    SINTER_PARAMETER_ADDRESS(at, maps, module##__##form, 0);                                                                   \
    sinter::device::TileProduct<columns, gated, bf16>(arguments).run(at);                                                      \
  }
/// The kernels of one form and type, a module of their own: the driver takes half a second to compile one.
#define SINTER_TILE_PRODUCTS(columns, type, bf16)                                   \
  SINTER_TILE_PRODUCT(tile_product_##columns##_##type, plain, columns, false, bf16) \
  SINTER_TILE_PRODUCT(tile_product_##columns##_##type, gated, columns, true, bf16)
