#pragma once
// Products and convolutions of few rows on devices of capability 9.0, each tile made by several blocks (split-k): what
// tile_product.device.h does for many rows, where there are fewer tiles than multiprocessors.
//
// A cluster of blocks makes one tile, each of them other steps of k: they take turns, so that what they read at a time lies side
// by side in memory. A warp of each brings tiles of both matrices through a ring of stages; two warpgroups multiply, each half of
// the rows. In the end the ring is free, and the blocks exchange their f32 sums through it: each finishes its share of the tile,
// adding in the order of the parts, so results have the same bits every time. The copying unit carries the sums.
//
// No block waits for one of another cluster. A cluster may hold several tiles, one below the other: blocks of the same part then
// share the weights, of which each brings a piece to all of them.
//
// A kernel begins while those before it still run, as tile products do: only weights are read before they have ended.
#include "backends/cuda/kernels/split_rows.device.h"
#include "backends/cuda/kernels/tile_results.device.h"

namespace sinter::device {

template <int kColumns, int kParts, bool kBf16, class RowMap>
struct SplitProduct {
  static constexpr SplitTile kTile{kColumns, kParts};
  static constexpr int kStages = kTile.stages(), kStageBytes = kTile.stage_bytes(), kLeftBytes = kTileRows * kTileDepth * 2;
  static constexpr int kSums = kColumns / 2;  // of a thread
  static constexpr int kWarps = 8;            // that multiply
  static constexpr int kPatches = kTile.patches(), kWarpPatches = kPatches / kWarps, kPatchBytes = SplitTile::kPatchBytes;
  /// That a block finishes, and each of its warps, at most.
  static constexpr int kPartPatches = kTile.part_patches(), kMostPatches = (kPartPatches / 2 + kWarps - 1) / kWarps * 2;
  static constexpr int kBoth = 1;  // the named barrier of both warpgroups
  using Sums = float[kSums];

  const TileProductArguments& args;
  const SplitArguments& split;
  const RowMap map;
  const int warp, lane;
  uint32_t stages, full, empty, gathered;  // addresses in shared memory; the last three: barriers
  int row_of_cluster, part, steps, first_column;
  typename RowMap::Tile tile;

  SINTER_DEVICE_INLINE SplitProduct(const TileProductArguments& a, const SplitArguments& s, const RowMap& rows)
      : args(a), split(s), map(rows), warp(thread_x() / 32), lane(thread_x() % 32) {
    stages = (shared_address(shared_memory()) + 1023) & ~1023u;
    full = stages + kStages * kStageBytes;
    empty = full + 8 * kStages;
    gathered = empty + 8 * kStages;
    const int rank = int(rank_in_cluster()), cluster = block_x() / (split.rows * kParts);
    row_of_cluster = rank % split.rows;
    part = rank / split.rows;
    steps = divide_up(divide_up(args.k, kTileDepth) - part, kParts);
    const int row_groups = divide_up(args.m, kTileRows * split.rows);
    first_column = cluster / row_groups * kColumns;
    tile = map.tile((cluster % row_groups * split.rows + row_of_cluster) * kTileRows);
  }

  SINTER_DEVICE_INLINE void prepare() {
    if (thread_x() == 0) {
      for (int s = 0; s < kStages; ++s) {
        make_barrier(full + 8 * s, 1);
        make_barrier(empty + 8 * s, uint32_t(kWarps * split.rows));
      }
      make_barrier(gathered, 1);
      publish_barriers();
      arrive_expecting(gathered, uint32_t((kParts - 1) * (first_patch(part + 1) - first_patch(part)) * kPatchBytes));
    }
    if (split.rows > 1) {
      cluster_arrive();
      cluster_wait();
    } else {
      barrier();
    }
  }

  /// Announces what a stage will hold, and starts bringing the weights, or this block's piece of them to all that share them.
  SINTER_DEVICE_INLINE void bring_weights(uint64_t weights_map, const typename RowMap::Step& step, int stage) const {
    const int piece = kColumns / split.rows, first = row_of_cluster * piece;
    const uint32_t at = stages + stage * kStageBytes + kLeftBytes + uint32_t(first) * kTileDepth * 2, barrier = full + 8 * stage;
    const uint32_t sharing = split.rows > 1 ? ((1u << split.rows) - 1) << (part * split.rows) : 0;
    arrive_expecting(barrier, kStageBytes);
    map.copy_weights(at, weights_map, step, tile, first_column + first, barrier, sharing);
  }

  /// One thread would do; but the others of its warp, waiting elsewhere, would hold it up.
  SINTER_DEVICE_INLINE void bring(uint64_t maps) {
    const uint64_t left_map = maps, weights_map = maps + sizeof(TileMaps::a);
    const int early = args.early_weights ? least(kStages, steps) : 0;
    if (lane == 0) {
      prefetch_map(left_map);
      prefetch_map(weights_map);
      if constexpr (RowMap::kHasShortcut) prefetch_map(left_map + sizeof(TileMaps)), prefetch_map(weights_map + sizeof(TileMaps));
      auto what = map.step(part);
      for (int step = 0; step < early; ++step, map.advance(what, kParts)) bring_weights(weights_map, what, step);
    }
    wait_for_operands();
    int stage = 0;
    uint32_t parity = 1;  // nobody waits for a stage that was never used
    auto what = map.step(part);
    for (int step = 0; step < steps; ++step, map.advance(what, kParts)) {
      wait_phase(empty + 8 * stage, parity);
      if (lane == 0) {
        if (step >= early) bring_weights(weights_map, what, stage);
        map.copy_rows(stages + stage * kStageBytes, left_map, what, tile, full + 8 * stage);
      }
      warp_barrier();
      if (++stage == kStages) stage = 0, parity ^= 1;
    }
  }

  SINTER_DEVICE_INLINE void release(int stage) const {
    if (split.rows == 1) {
      if (lane == 0) arrive_at(empty + 8 * stage);
    } else if (lane < split.rows) {
      arrive_in_cluster(empty + 8 * stage, uint32_t(part * split.rows + lane));
    }
  }

  /// Multiplies what a stage holds, once it is there. kFirst: the sums begin.
  template <bool kFirst>
  SINTER_DEVICE_INLINE void start_step(Sums& sums, int stage, uint32_t parity) const {
    constexpr bool kTurned = RowMap::kTurned;
    wait_phase(full + 8 * stage, parity);
    const uint32_t at = stages + stage * kStageBytes;
    const uint64_t left = product_operand(at + uint32_t(warp / 4) * (kLeftBytes / 2));
    const uint64_t right = kTurned ? summed_rows_operand(at + kLeftBytes, kTileDepth * 128) : product_operand(at + kLeftBytes);
    begin_products();
    SINTER_UNROLL
    for (int i = 0; i < kTileDepth / 16; ++i) {
      const uint64_t rows = left + i * 2, columns = right + i * (kTurned ? 128 : 2);
      if (kFirst && i == 0)
        start_product<kBf16, true, kTurned>(sums, rows, columns);
      else
        start_product<kBf16, false, kTurned>(sums, rows, columns);
    }
    commit_products();
  }

  SINTER_DEVICE_INLINE void multiply() {
    wait_for_operands();
    Sums sums;
    int stage = 0, last = 0;
    uint32_t parity = 0;
    start_step<true>(sums, stage, parity);
    for (int step = 1; step < steps; ++step) {
      if (++stage == kStages) stage = 0, parity ^= 1;
      start_step<false>(sums, stage, parity);
      wait_products<1>();
      // What nobody waits for could still be under way when the other block ends.
      if (step - 1 + kStages < steps) release(last);
      last = stage;
    }
    wait_products<0>();
    settle(sums);
    give(sums);
    finish();
  }

  /// Patches of a tile are counted warp by warp, columns first. These belong to a part: from its first on to that of the next.
  SINTER_DEVICE_INLINE int first_patch(int of_part) const { return least(of_part * kPartPatches, kPatches); }
  /// Where the sums that a part has made of a patch lie in the block that finishes it, part `owner`.
  SINTER_DEVICE_INLINE uint32_t patch_of(int of_part, int patch, int owner) const {
    const int place = of_part == owner ? patch : kPatches + of_part * kPartPatches + patch - first_patch(owner);
    return stages + uint32_t(place) * kPatchBytes;
  }

  /// Gives the other blocks what they finish. The cluster meets here and where a block ends: nobody writes to stages that others
  /// still read, nor ends while others read from it.
  SINTER_DEVICE_INLINE void give(const Sums& sums) const {
    cluster_arrive();
    named_barrier(kBoth, kWarps * 32);  // the other warpgroup has read the stages as well
    const int begin = warp * kWarpPatches, end = begin + kWarpPatches;
    SINTER_UNROLL
    for (int j = 0; j < kWarpPatches; ++j) {
      const float* four = sums + j * 4;
      shared_at<Words4>(stages + uint32_t((begin + j) * kPatchBytes + lane * 16)) =
          Words4{as_bits(four[0]), as_bits(four[1]), as_bits(four[2]), as_bits(four[3])};
    }
    show_to_copies();
    warp_barrier();
    cluster_wait();
    if (lane < kParts && lane != part) {
      const int theirs = first_patch(lane), first = begin < theirs ? theirs : begin, behind = least(first_patch(lane + 1), end);
      if (first < behind)
        copy_to_block(patch_of(part, first, lane), stages + uint32_t(first * kPatchBytes),
                      uint32_t((behind - first) * kPatchBytes), gathered, uint32_t(lane * split.rows + row_of_cluster));
    }
  }

  /// Calls body(number, patch) for those that this warp finishes, two neighbours after each other.
  template <class Body>
  SINTER_DEVICE_INLINE void for_each_patch(const Body& body) const {
    const int begin = first_patch(part), end = first_patch(part + 1);
    SINTER_UNROLL
    for (int i = 0; i < kMostPatches; ++i) {
      const int patch = begin + (i / 2 * kWarps + warp) * 2 + i % 2;
      if (patch < end) body(i, patch);
    }
  }
  /// This lane's elements of a patch: two neighbours of a row, and those 8 rows below.
  struct Place {
    int rows[2];  // of the results; -1: none
    int column;
  };
  /// The i-th of for_each_patch(); an odd one has the rows of that before, and finding them may take divisions.
  SINTER_DEVICE_INLINE void find_place(Place (&places)[kMostPatches], int i, int patch) const {
    static_assert(kWarpPatches % 2 == 0 && kPartPatches % 2 == 0);
    const int row = patch / kWarpPatches * 16 + lane / 4;
    places[i].column = first_column + patch % kWarpPatches * 8 + lane % 4 * 2;
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half)
      places[i].rows[half] = i % 2 ? places[i - 1].rows[half] : map.out_row(tile, row + half * 8);
  }
  SINTER_DEVICE_INLINE bool is_inside(const Place& at, int half) const { return at.rows[half] >= 0 && at.column < args.n; }
  static SINTER_DEVICE_INLINE Global<uint32_t>& pair_at(uint64_t matrix, int row, int64_t stride, int column) {
    return *reinterpret_cast<Global<uint32_t>*>(matrix + uint64_t(row * stride + column) * 2);
  }

  SINTER_DEVICE_INLINE void finish() const {
    Place places[kMostPatches];
    uint32_t bias[kMostPatches], residual[kMostPatches][2];
    [[maybe_unused]] uint32_t more_bias[kMostPatches];
    float sums[kMostPatches][4];
    for_each_patch([&](int i, int patch) SINTER_INLINE_LAMBDA {
      find_place(places, i, patch);
      const Place& at = places[i];
      bias[i] = args.bias && at.column < args.n ? uint32_t(pair_at(args.bias, 0, 0, at.column)) : 0;
      if constexpr (RowMap::kHasShortcut) {
        const uint64_t more = map.shortcut.bias;
        more_bias[i] = more && at.column < args.n ? uint32_t(pair_at(more, 0, 0, at.column)) : 0;
      }
      SINTER_UNROLL
      for (int half = 0; half < 2; ++half) {
        const bool adds = args.residual && is_inside(at, half);
        residual[i][half] = adds ? uint32_t(pair_at(args.residual, at.rows[half], args.residual_stride, at.column)) : 0;
      }
    });
    wait_phase(gathered, 0);
    cluster_arrive();
    named_barrier(kBoth, kWarps * 32);  // what this block's own warps give each other is there
    SINTER_UNROLL
    for (int i = 0; i < kMostPatches; ++i) sums[i][0] = sums[i][1] = sums[i][2] = sums[i][3] = 0;
    SINTER_UNROLL
    for (int of_part = 0; of_part < kParts; ++of_part)
      for_each_patch([&](int i, int patch) SINTER_INLINE_LAMBDA {
        const Words4 more = shared_at<Words4>(patch_of(of_part, patch, part) + uint32_t(lane) * 16);
        SINTER_UNROLL
        for (int k = 0; k < 4; ++k) sums[i][k] += as_float(more[k]);
      });
    for_each_patch([&](int i, int) SINTER_INLINE_LAMBDA {
      const Place& at = places[i];
      SINTER_UNROLL
      for (int half = 0; half < 2; ++half) {
        float low = sums[i][half * 2] * args.scale + low_of<kBf16>(bias[i]);
        float high = sums[i][half * 2 + 1] * args.scale + high_of<kBf16>(bias[i]);
        if constexpr (RowMap::kHasShortcut) low += low_of<kBf16>(more_bias[i]), high += high_of<kBf16>(more_bias[i]);
        if (args.gelu) low = gelu_tanh(low), high = gelu_tanh(high);
        low += low_of<kBf16>(residual[i][half]), high += high_of<kBf16>(residual[i][half]);
        if (is_inside(at, half)) pair_at(args.out, at.rows[half], args.out_stride, at.column) = pair_of<kBf16>(low, high);
      }
    });
    cluster_wait();
  }

  SINTER_DEVICE_INLINE void run(uint64_t maps) {
    prepare();
    if (warp < kWarps) {
      multiply();
    } else {
      bring(maps);
      for (int meeting = 0; meeting < 2; ++meeting) {
        cluster_arrive();
        cluster_wait();
      }
    }
  }
};

}  // namespace sinter::device

#define SINTER_SPLIT_WINDOW_KERNEL(name, columns, parts, bf16, ...)                                                \
  SINTER_DEVICE_HOPPER_KERNEL(name, sinter::device::TileMaps maps, sinter::device::TileProductArguments arguments, \
                              sinter::device::SplitArguments split, sinter::device::TapsArguments taps) {          \
    (void)maps;                                                                                                    \
    uint64_t at;                                                                                                   \
    SINTER_PARAMETER_ADDRESS(at, maps, name, 0);                                                                   \
    using Rows = __VA_ARGS__;                                                                                      \
    sinter::device::SplitProduct<columns, parts, bf16, Rows>(arguments, split, Rows{{arguments}, {taps}}).run(at); \
  }
#define SINTER_SPLIT_MATRIX_KERNEL(name, columns, parts, bf16)                                                     \
  SINTER_DEVICE_HOPPER_KERNEL(name, sinter::device::TileMaps maps, sinter::device::TileProductArguments arguments, \
                              sinter::device::SplitArguments split) {                                              \
    (void)maps;                                                                                                    \
    uint64_t at;                                                                                                   \
    SINTER_PARAMETER_ADDRESS(at, maps, name, 0);                                                                   \
    using Rows = sinter::device::SplitMatrixRows;                                                                  \
    sinter::device::SplitProduct<columns, parts, bf16, Rows>(arguments, split, Rows{{arguments}}).run(at);         \
  }
/// The kernels of one tile and type, modules of their own: the driver takes 0.2 s to compile each. Those that double are for
/// tiles whose weights are whole boxes of 64 columns.
#define SINTER_SPLIT_PRODUCT(columns, parts, type, bf16)                                                 \
  SINTER_SPLIT_MATRIX_KERNEL(split_product_##columns##x##parts##_##type##__matrix, columns, parts, bf16) \
  SINTER_SPLIT_WINDOW_KERNEL(split_product_##columns##x##parts##_##type##__window, columns, parts, bf16, \
                             sinter::device::SplitWindowRows)
#define SINTER_SPLIT_DOUBLED(columns, parts, type, bf16)                                                 \
  SINTER_SPLIT_WINDOW_KERNEL(split_doubled_##columns##x##parts##_##type##__window, columns, parts, bf16, \
                             sinter::device::SplitDoubledRows<columns>)
/// With a shortcut.
#define SINTER_SPLIT_SHORTCUT(columns, parts, type, bf16)                                                                      \
  SINTER_DEVICE_HOPPER_KERNEL(split_shortcut_##columns##x##parts##_##type##__window, sinter::device::ShortcutMaps maps,        \
                              sinter::device::TileProductArguments arguments, sinter::device::SplitArguments split,            \
                              sinter::device::TapsArguments taps, sinter::device::SplitShortcutArguments shortcut) {           \
    (void)maps;                                                                                                                \
    uint64_t at;                                                                                                               \
    SINTER_PARAMETER_ADDRESS(at, maps, split_shortcut_##columns##x##parts##_##type##__window, 0);                              \
    using Rows = sinter::device::SplitShortcutRows;                                                                            \
    sinter::device::SplitProduct<columns, parts, bf16, Rows>(arguments, split, Rows{{{arguments}, {taps}}, shortcut}).run(at); \
  }
