#pragma once
// Products of 16-bit matrices on devices of capability 9.0, out = epilogue(a . weights^T), rows of both being dense in k.
//
// A block has three warpgroups. The first lets the copying unit bring tiles of both matrices through a ring of stages
// in shared memory; the other two multiply from there into registers, 64 rows an instruction. Two neighbouring blocks make tiles
// of the same columns: each brings half of the weights' tile for both. Blocks stay and go from tile to tile, so the next tile is
// brought while one is finished; where the warpgroups alternate, it is multiplied too.
//
// Traffic of shared memory: of 128 x 160 sums in 64 columns 18 + 20 KB written, and as much and 20 KB more read in 640 cycles of
// the units that multiply.
#include "backends/cuda/kernels/gelu.h"
#include "backends/cuda/kernels/hopper_intrinsics.h"
#include "backends/cuda/kernels/tile_product_arguments.h"

#define SINTER_UNROLL_SOME _Pragma("unroll 4")

namespace sinter::device {

template <class T>
using Shared = __attribute__((address_space(3))) T;
template <class T>
using Global = __attribute__((address_space(1))) T;

template <bool kBf16>
SINTER_DEVICE_INLINE float low_of(uint32_t pair) {
  return kBf16 ? as_float(pair << 16) : f16_bits_to_float(uint16_t(pair));
}
template <bool kBf16>
SINTER_DEVICE_INLINE float high_of(uint32_t pair) {
  return kBf16 ? as_float(pair & 0xffff0000u) : f16_bits_to_float(uint16_t(pair >> 16));
}
template <bool kBf16>
SINTER_DEVICE_INLINE uint32_t pair_of(float low, float high) {
  return kBf16 ? floats_to_bf16_pair(low, high) : floats_to_f16_pair(low, high);
}

/// What lies at an address in shared memory.
template <class T>
SINTER_DEVICE_INLINE Shared<T>& shared_at(uint32_t at) {
  return *reinterpret_cast<Shared<T>*>(at);
}
SINTER_DEVICE_INLINE void copy_chunk(uint32_t to, uint64_t global, bool inside) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(inside ? 16 : 0) : "memory");
}

template <int kColumns, bool kAlternate, bool kGated, bool kBf16>
struct TileProduct {
  static constexpr TileForm kForm{kColumns, kAlternate, kGated};
  static constexpr int kStages = kForm.stages(), kStageBytes = kForm.stage_bytes(), kLeftBytes = kTileRows * kTileDepth * 2;
  static constexpr int kOut = kForm.out_columns(), kStaged = kForm.staged_columns();
  static constexpr int kBlocks = kForm.group_rows() / 64;  // of 64 rows, that a warpgroup makes
  static constexpr int kSums = kColumns / 2;               // of a thread and block
  static constexpr int kStep = kAlternate ? 2 : 1;         // tiles from one of a warpgroup to its next
  static constexpr int kReaders = (kAlternate ? 4 : 8) * 2;  // warps of both blocks that free a stage

  const TileProductArguments& args;
  const TileOrder order;
  uint32_t stages, staging, full, empty;  // addresses in shared memory
  uint32_t rank;
  int steps, first_pair, next_pair;

  SINTER_DEVICE_INLINE explicit TileProduct(const TileProductArguments& a) : args(a), order(a.m, a.n, kOut, a.group) {
    const uint32_t shared = (shared_address(shared_memory()) + 1023) & ~1023u;
    stages = shared;
    staging = stages + kStages * kStageBytes;
    full = staging + 2 * kForm.staging_bytes();
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

  /// One thread would do; but the others of its warp, waiting elsewhere, would hold it up.
  SINTER_DEVICE_INLINE void bring(uint64_t maps) {
    const uint64_t left_map = maps, weights_map = maps + sizeof(TileMaps::a);
    prefetch_map(left_map);
    prefetch_map(weights_map);
    constexpr int kHalf = kColumns / 2;
    int stage = 0;
    uint32_t parity = 1;  // nobody waits for a stage that was never used
    for (int pair = first_pair; pair < order.pairs(); pair += next_pair) {
      const auto [pair_row, column] = order.place(pair);
      const int row = (pair_row * 2 + int(rank)) * kTileRows;
      const int weight = kGated ? column * kOut + int(rank) * args.gate : column * kOut + int(rank) * kHalf;
      for (int step = 0; step < steps; ++step) {
        wait_phase(empty + 8 * stage, parity);
        const uint32_t at = stages + stage * kStageBytes, barrier = full + 8 * stage;
        if (thread_x() == 0) {
          arrive_expecting(barrier, kStageBytes);
          copy_tile(at, left_map, step * kTileDepth, row, barrier);
          copy_tile_to_pair(at + kLeftBytes + rank * kHalf * kTileDepth * 2, weights_map, step * kTileDepth, weight, barrier);
        }
        warp_barrier();
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
    }
  }

  SINTER_DEVICE_INLINE void release(int stage) const {
    if (thread_x() % 32 < 2) arrive_in_pair(empty + 8 * stage, thread_x() % 32);
  }

  /// Multiplies what a stage holds, once it is there. kFirst: the sums begin.
  template <bool kFirst>
  SINTER_DEVICE_INLINE void start_step(float (&sums)[kBlocks][kSums], int stage, uint32_t parity, int row_of_group) const {
    wait_phase(full + 8 * stage, parity);
    const uint32_t at = stages + stage * kStageBytes;
    const uint64_t left = product_operand(at) + uint64_t(row_of_group / 64 * 512), right = product_operand(at + kLeftBytes);
    begin_products();
    SINTER_UNROLL
    for (int i = 0; i < kTileDepth / 16; ++i) {
      SINTER_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        const uint64_t rows = left + uint64_t(i * 2 + b * 512), columns = right + uint64_t(i * 2);
        if (kFirst && i == 0)
          start_product<kBf16, true>(sums[b], rows, columns);
        else
          start_product<kBf16, false>(sums[b], rows, columns);
      }
    }
    commit_products();
  }

  SINTER_DEVICE_INLINE void multiply(int group) {
    const int warp = thread_x() / 32 % 4, lane = thread_x() % 32;
    constexpr int kFirstTurn = 1;  // named barriers: 1 and 2, when a warpgroup may multiply
    const int row_of_group = kAlternate ? 0 : group * 64;
    if (kAlternate && group == 1 && first_pair < order.pairs()) named_arrive(kFirstTurn, 256);
    int sequence = kAlternate ? group : 0;
    for (int pair = first_pair + sequence * next_pair; pair < order.pairs(); pair += kStep * next_pair, sequence += kStep) {
      const auto [pair_row, column] = order.place(pair);
      const int row = (pair_row * 2 + int(rank)) * kTileRows + row_of_group;
      if constexpr (!kGated)
        if (args.residual) fetch_residual(group, warp, lane, row, column * kOut);
      float sums[kBlocks][kSums];
      const uint32_t before = uint32_t(sequence) * uint32_t(steps);
      int stage = int(before % kStages), last = stage;
      uint32_t parity = before / kStages & 1;
      if constexpr (kAlternate) named_barrier(kFirstTurn + group, 256);
      start_step<true>(sums, stage, parity, row_of_group);
      if (++stage == kStages) stage = 0, parity ^= 1;
      for (int step = 1; step < steps; ++step) {
        start_step<false>(sums, stage, parity, row_of_group);
        wait_products<1>();
        release(last);
        last = stage;
        if (++stage == kStages) stage = 0, parity ^= 1;
      }
      if (kAlternate && pair + next_pair < order.pairs()) named_arrive(kFirstTurn + 1 - group, 256);
      wait_products<0>();
      release(last);
      SINTER_UNROLL
      for (int b = 0; b < kBlocks; ++b) settle(sums[b]);
      finish(sums, group, warp, lane, row, column * kOut);
    }
  }

  /// Row `row` of a warp's own, from the first of its warpgroup: 16 of each 64.
  static SINTER_DEVICE_INLINE int group_row(int warp, int row) { return row / 16 * 64 + warp * 16 + row % 16; }
  SINTER_DEVICE_INLINE uint32_t staging_of(int group, int warp) const {
    return staging + group * kForm.staging_bytes() + warp * (kBlocks * 16 * kStaged * 2);
  }

  /// Starts bringing what will be added into where the results will be.
  SINTER_DEVICE_INLINE void fetch_residual(int group, int warp, int lane, int first_row, int first_column) const {
    constexpr int kChunks = kStaged / 8, kRows = kBlocks * 16;
    const uint32_t base = staging_of(group, warp);
    warp_barrier();  // all have stored what was there
    SINTER_UNROLL_SOME
    for (int i = 0; i < kRows * kChunks / 32; ++i) {
      const int index = i * 32 + lane, r = index / kChunks, chunk = index % kChunks;
      const int row = first_row + group_row(warp, r), column = first_column + chunk * 8;
      const bool inside = row < args.m && column < args.n;
      const int64_t element = inside ? int64_t(row) * args.residual_stride + column : 0;
      copy_chunk(base + StagedRows<kStaged>::offset(r, chunk), args.residual + uint64_t(element) * 2, inside);
    }
    copy_async_commit();
  }

  /// The bias of two columns; what lies outside is never stored.
  SINTER_DEVICE_INLINE uint32_t bias_pair(int column, int gate) const {
    return column < args.n ? *reinterpret_cast<const Global<uint32_t>*>(args.bias + uint64_t(gate + column) * 2) : 0;
  }
  /// sums[..][at] and on are 8 columns of kOut from column 8 j on.
  SINTER_DEVICE_INLINE void add_bias(float (&sums)[kBlocks][kSums], int lane, int first_column) const {
    SINTER_UNROLL
    for (int j = 0; j < kSums / 4; ++j) {
      const bool gates = kGated && j >= kSums / 8;
      const int column = first_column + (gates ? j - kSums / 8 : j) * 8 + lane % 4 * 2;
      const uint32_t bias = bias_pair(column, gates ? args.gate : 0);
      SINTER_UNROLL
      for (int half = 0; half < 2 * kBlocks; ++half) {
        float* own = sums[half / 2] + j * 4 + half % 2 * 2;
        own[0] += low_of<kBf16>(bias);
        own[1] += high_of<kBf16>(bias);
      }
    }
  }
  SINTER_DEVICE_INLINE void activate(float (&sums)[kBlocks][kSums]) const {
    SINTER_UNROLL
    for (int b = 0; b < kBlocks; ++b) {
      SINTER_UNROLL
      for (int i = 0; i < (kGated ? kSums / 2 : kSums); ++i)
        sums[b][i] = kGated ? sums[b][i] * gelu_erf(sums[b][kSums / 2 + i]) : gelu_tanh(sums[b][i]);
    }
  }

  SINTER_DEVICE_INLINE void finish(float (&sums)[kBlocks][kSums], int group, int warp, int lane, int first_row,
                                   int first_column) const {
    if (args.scale != 1.f) {
      SINTER_UNROLL
      for (int b = 0; b < kBlocks; ++b) {
        SINTER_UNROLL
        for (int i = 0; i < kSums; ++i) sums[b][i] *= args.scale;
      }
    }
    if (args.bias) add_bias(sums, lane, first_column);
    if (kGated || args.gelu) activate(sums);
    SINTER_UNROLL
    for (int part = 0; part < kOut / kStaged; ++part) {
      const int column = first_column + part * kStaged;
      if (!kGated && args.residual) {
        if (part > 0) fetch_residual(group, warp, lane, first_row, column);
        copy_async_wait<0>();
        warp_barrier();
        add_residual(sums, part, group, warp, lane);
      }
      warp_barrier();
      stage_results(sums, part, group, warp, lane);
      warp_barrier();
      store_rows(group, warp, lane, first_row, column);
    }
  }

  /// Calls body(two sums of a row, where they are staged).
  template <class Body>
  SINTER_DEVICE_INLINE void for_each_pair(float (&sums)[kBlocks][kSums], int part, int group, int warp, int lane,
                                          const Body& body) const {
    using Rows = StagedRows<kStaged>;
    Shared<uint32_t>* places[Rows::kMask + 1];
    SINTER_UNROLL
    for (int i = 0; i <= Rows::kMask; ++i)
      places[i] = &shared_at<uint32_t>(staging_of(group, warp) + Rows::offset(lane / 4, i)) + lane % 4;
    SINTER_UNROLL
    for (int j = 0; j < kStaged / 8; ++j) {
      SINTER_UNROLL
      for (int half = 0; half < 2 * kBlocks; ++half)
        body(sums[half / 2] + (part * kStaged / 8 + j) * 4 + half % 2 * 2,
             places[j & Rows::kMask][(half * 8 * Rows::kChunks + (j & ~Rows::kMask)) * 4]);
    }
  }
  SINTER_DEVICE_INLINE void add_residual(float (&sums)[kBlocks][kSums], int part, int group, int warp, int lane) const {
    for_each_pair(sums, part, group, warp, lane, [](float* two, Shared<uint32_t>& at) SINTER_INLINE_LAMBDA {
      const uint32_t more = at;
      two[0] += low_of<kBf16>(more);
      two[1] += high_of<kBf16>(more);
    });
  }
  SINTER_DEVICE_INLINE void stage_results(float (&sums)[kBlocks][kSums], int part, int group, int warp, int lane) const {
    for_each_pair(sums, part, group, warp, lane,
                  [](float* two, Shared<uint32_t>& at) SINTER_INLINE_LAMBDA { at = pair_of<kBf16>(two[0], two[1]); });
  }

  SINTER_DEVICE_INLINE void store_rows(int group, int warp, int lane, int first_row, int first_column) const {
    constexpr int kChunks = kStaged / 8, kRows = kBlocks * 16;
    const uint32_t base = staging_of(group, warp);
    SINTER_UNROLL_SOME
    for (int i = 0; i < kRows * kChunks / 32; ++i) {
      const int index = i * 32 + lane, r = index / kChunks, chunk = index % kChunks;
      const int row = first_row + group_row(warp, r), column = first_column + chunk * 8;
      const Words4 words = shared_at<Words4>(base + StagedRows<kStaged>::offset(r, chunk));
      if (row < args.m && column < args.n)
        *reinterpret_cast<Global<Words4>*>(args.out + uint64_t(int64_t(row) * args.out_stride + column) * 2) = words;
    }
  }

  SINTER_DEVICE_INLINE void run(uint64_t maps) {
    prepare();
    const int group = thread_x() / 128;
    if (group == 0) {
      fewer_registers<24>();
      if (thread_x() < 32) bring(maps);
    } else {
      more_registers<240>();
      multiply(group - 1);
    }
    pair_barrier();  // the other may still write here, and count
  }
};

}  // namespace sinter::device

#define SINTER_TILE_PRODUCT(module, form, columns, alternate, gated, bf16)                                             \
  SINTER_DEVICE_KERNEL(module##__##form, sinter::device::TileMaps maps, sinter::device::TileProductArguments arguments) { \
    (void)maps;                                                                                                        \
    uint64_t at;                                                                                                       \
    SINTER_PARAMETER_ADDRESS(at, module##__##form, 0);                                                                 \
    sinter::device::TileProduct<columns, alternate, gated, bf16>(arguments).run(at);                                   \
  }
/// The kernels of one form and type, a module of their own: compiling one takes the driver half a second.
#define SINTER_TILE_PRODUCTS(columns, type, alternate, bf16)                                        \
  SINTER_TILE_PRODUCT(tile_product_##columns##_##type, plain, columns, alternate, false, bf16) \
  SINTER_TILE_PRODUCT(tile_product_##columns##_##type, gated, columns, alternate, true, bf16)
