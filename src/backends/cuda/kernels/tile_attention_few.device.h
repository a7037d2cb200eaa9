#pragma once
// Attention by whole tiles to so few keys that one tile has all of a head, such as a prompt's, on devices of capability 9.0.
//
// A block has a run of all heads' tiles of queries, as many as every other, and its warpgroups take turns with them. Keys and
// values are brought when the run comes to another head, and those of the next while one is at work; so are the queries, two
// tiles for each warpgroup. The largest score of a row is known before any weight is made, so nothing is made again.
#include "backends/cuda/kernels/tile_attention.device.h"

namespace sinter::device {

template <TileAttentionForm kForm, bool kBf16>
struct FewKeysAttention {
  using Tiles = TileAttention<kForm, kBf16>;
  using Slot = typename Tiles::Slot;
  static constexpr int kMakers = kForm.makers;
  static_assert(kForm.few() && kForm.places() == 2 && kForm.slots() == 4);  // of two heads

  const TileAttentionArguments& args;
  Tiles tiles;
  int of_head;     // tiles of queries
  int begin, end;  // of this block, counted through all heads

  SINTER_DEVICE_INLINE explicit FewKeysAttention(const TileAttentionArguments& a) : args(a), tiles(a) {
    of_head = divide_up(args.queries, kAttentionRows);
    const int all = args.order.heads() * of_head, each = all / blocks_x(), more = all % blocks_x();
    begin = block_x() * each + least(block_x(), more);
    end = begin + each + (block_x() < more ? 1 : 0);
  }

  /// In the order in which they are used.
  SINTER_DEVICE_INLINE void bring(uint64_t maps) const {
    const uint64_t q = maps, k = q + sizeof(TileAttentionMaps::q), v = k + sizeof(TileAttentionMaps::k);
    prefetch_map(q);
    prefetch_map(k);
    prefetch_map(v);
    wait_for_operands();
    Slot next;
    uint32_t turn = 0;
    int head = -1, maker = 0;
    for (int tile = begin; tile < end; ++tile) {
      const bool is_other = tile / of_head != head;
      head = tile / of_head;
      if (is_other) tiles.bring_slot(next, k, head, 0);
      tiles.bring_queries(Tiles::place(maker, turn), q, head, tile - head * of_head);
      if (is_other) tiles.bring_slot(next, v, head, 0);
      if (++maker == kMakers) maker = 0, ++turn;
    }
  }

  SINTER_DEVICE_INLINE void attend(const Slot& keys, const Slot& values, int head, int first_row, uint32_t turn) const {
    typename Tiles::Scores scores;
    typename Tiles::Weights weights;
    typename Tiles::Sums sums;
    typename Tiles::Rows rows;
    const auto at = Tiles::place(tiles.maker, turn);
    const uint32_t keys_at = tiles.await(keys);
    wait_phase(tiles.queries_full + 8 * at.number, at.parity);
    tiles.start_scores(scores, keys_at, at.number);
    wait_products<0>();
    settle(scores);
    tiles.release_queries(at.number);
    tiles.look_at_first(scores, rows, false);
    tiles.weigh(scores, weights, sums, rows);
    SINTER_UNROLL
    for (int i = 0; i < Tiles::kSums; ++i) sums[i] = 0;
    tiles.start_values(sums, weights, tiles.await(values));
    wait_products<0>();
    settle(sums);
    settle(weights);
    tiles.store(sums, rows, head, first_row, 0);
  }

  /// Lets go of a head, whether this warpgroup had queries of it or not: it must not let go of what is still to come.
  SINTER_DEVICE_INLINE void leave(const Slot& keys, const Slot& values) const {
    tiles.await(keys);
    tiles.await(values);
    warp_barrier();
    tiles.release(keys);
    tiles.release(values);
  }
  SINTER_DEVICE_INLINE void make() const {
    if (begin == end) return;
    const int last = (end - 1) / of_head;
    int head = begin / of_head;
    uint32_t turn = 0;
    Slot next, keys = next.taken(), values = next.taken();
    const auto go_to = [&](int other) SINTER_INLINE_LAMBDA {
      for (; head < other; ++head) {
        leave(keys, values);
        keys = next.taken(), values = next.taken();
      }
    };
    for (int tile = begin + tiles.maker; tile < end; tile += kMakers, ++turn) {
      go_to(tile / of_head);
      attend(keys, values, head, (tile - head * of_head) * kAttentionRows, turn);
    }
    go_to(last);
    leave(keys, values);
  }

  SINTER_DEVICE_INLINE void run(uint64_t maps) {
    tiles.prepare();
    if (tiles.maker == kMakers) {
      fewer_registers<kForm.copier_registers()>();
      if (thread_x() % 128 < 32) bring(maps);
    } else {
      more_registers<kForm.maker_registers()>();
      make();
    }
  }
};

}  // namespace sinter::device

#define SINTER_FEW_KEYS_ATTENTION(module, bf16, ...) SINTER_TILE_ATTENTION_BY(FewKeysAttention, module, bf16, __VA_ARGS__)
