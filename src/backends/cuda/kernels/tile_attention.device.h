#pragma once
// Attention of 16-bit heads to any number of keys on devices of capability 9.0.
//
// One warpgroup lets the copying unit bring tiles of keys and values through a ring of slots in shared memory. Each of the others
// has 64 queries: it multiplies them with 128 keys, turns the scores into weights in its registers, and multiplies these with the
// values. While the scores of the next keys and the sums of the last are multiplied it exponentiates, and while one warpgroup
// exponentiates others multiply. Blocks stay, and go from group of queries to group of queries.
//
// Of 64 queries and 128 keys the exponentials take 512 cycles, products with heads of 40 take 352, of 64: 512.
#include "backends/cuda/kernels/hopper_intrinsics.h"
#include "backends/cuda/kernels/tile_attention_arguments.h"

namespace sinter::device {

template <int kD, int kMakers, bool kBf16>
struct TileAttention {
  static constexpr TileAttentionForm kForm{kD, kMakers};
  static constexpr int kKeys = kAttentionKeys, kSlots = kForm.slots(), kBoxBytes = kKeys * 128;
  static constexpr int kScores = kKeys / 2, kSums = kD / 2;  // of a thread
  static constexpr int kSteps = kKeys / 16;
  static constexpr int kTurn = 1;  // the first of the named barriers that say whose turn it is
  /// Of the exponentials, those that come before the sums of the last keys are waited for: measured for each form.
  static constexpr int kBeforeSums = kD == 64 ? kScores / 2 : kScores;
  static constexpr float kLog2E = 1.4426950408889634f, kNegativeInfinity = -__builtin_inff();
  /// Scores times 0 would not be masked; by so little they all count the same.
  static constexpr float kLeastScale = 1e-30f;
  using Scores = float[kScores];
  using Sums = float[kSums];
  using Weights = uint32_t[kSteps * 4];

  /// A place in the ring, and which of its uses it is.
  struct Slot {
    int number = 0;
    uint32_t parity = 0;
    SINTER_DEVICE_INLINE Slot taken() {
      const Slot now = *this;
      if (++number == kSlots) number = 0, parity ^= 1;
      return now;
    }
  };
  /// Of the two rows of a thread's tile: row lane / 4 of its warp's 16 and the one 8 further.
  struct Rows {
    float largest[2] = {kNegativeInfinity, kNegativeInfinity}, total[2] = {0, 0};
  };

  const TileAttentionArguments& args;
  const int maker, warp, lane, steps;
  uint32_t slots, queries, staging, full, empty, queries_full, queries_empty;  // addresses in shared memory
  float scale;                                                                 // of exponents of two, positive

  SINTER_DEVICE_INLINE explicit TileAttention(const TileAttentionArguments& a)
      : args(a),
        maker(thread_x() / 128 - 1),
        warp(thread_x() / 32 % 4),
        lane(thread_x() % 32),
        steps(divide_up(a.keys, kKeys)),
        scale(larger(a.scale < 0 ? -a.scale : a.scale, kLeastScale) * kLog2E) {
    slots = (shared_address(shared_memory()) + 1023) & ~1023u;
    queries = slots + kSlots * kForm.slot_bytes();
    const uint32_t behind = queries + kMakers * kForm.query_bytes();
    staging = behind + uint32_t(maker * 4 + warp) * kForm.staging_bytes();
    full = behind + kMakers * 4 * kForm.staging_bytes();
    empty = full + 8 * kSlots;
    queries_full = empty + 8 * kSlots;
    queries_empty = queries_full + 8 * kMakers;
  }

  SINTER_DEVICE_INLINE void prepare() {
    if (thread_x() == 0) {
      for (int s = 0; s < kSlots; ++s) {
        make_barrier(full + 8 * s, 1);
        make_barrier(empty + 8 * s, kMakers * 4);
      }
      for (int m = 0; m < kMakers; ++m) {
        make_barrier(queries_full + 8 * m, 1);
        make_barrier(queries_empty + 8 * m, 4);
      }
      publish_barriers();
    }
    barrier();
  }

  // The warp that copies.

  /// Rows of a head, from a token on.
  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, int head, int token, int rows, uint32_t barrier) const {
    if (thread_x() != 0) return;
    const int entry = head / args.heads;
    arrive_expecting(barrier, uint32_t(kForm.boxes() * rows * 128));
    SINTER_UNROLL
    for (int box = 0; box < kForm.boxes(); ++box)
      copy_box(to + uint32_t(box * rows * 128), map, box * 64, head - entry * args.heads, token, entry, barrier);
  }
  /// One thread would do; but the others of its warp, waiting elsewhere, would hold it up.
  SINTER_DEVICE_INLINE void bring_slot(Slot& next, uint64_t map, int head, int token) const {
    const Slot slot = next.taken();
    wait_phase(empty + 8 * slot.number, slot.parity ^ 1);  // nobody waits for a slot that was never used
    copy_rows(slots + uint32_t(slot.number * kForm.slot_bytes()), map, head, token, kKeys, full + 8 * slot.number);
    warp_barrier();
  }
  /// The order is that in which they are used; the last keys, of which some may be none, come first.
  SINTER_DEVICE_INLINE void bring(uint64_t maps) const {
    const uint64_t q = maps, k = q + sizeof(TileAttentionMaps::q), v = k + sizeof(TileAttentionMaps::k);
    prefetch_map(q);
    prefetch_map(k);
    prefetch_map(v);
    wait_for_operands();
    Slot next;
    uint32_t parities = (1u << kMakers) - 1;
    for (int g = block_x(); g < args.order.groups(); g += blocks_x()) {
      const auto group = args.order.group(g);
      for (int m = 0; m < group.width; ++m) {
        wait_phase(queries_empty + 8 * m, parities >> m & 1);
        parities ^= 1u << m;
        copy_rows(queries + uint32_t(m * kForm.query_bytes()), q, group.head, (group.first + m) * kAttentionRows, kAttentionRows,
                  queries_full + 8 * m);
        warp_barrier();
      }
      int token = (steps - 1) * kKeys;
      bring_slot(next, k, group.head, token);
      for (; token > 0; token -= kKeys) {
        bring_slot(next, k, group.head, token - kKeys);
        bring_slot(next, v, group.head, token);
      }
      bring_slot(next, v, group.head, token);
    }
  }

  // The warpgroups that make results.

  SINTER_DEVICE_INLINE void release(const Slot& slot) const {
    if (lane == 0) arrive_at(empty + 8 * slot.number);
  }
  SINTER_DEVICE_INLINE uint32_t await(const Slot& slot) const {
    wait_phase(full + 8 * slot.number, slot.parity);
    return slots + uint32_t(slot.number * kForm.slot_bytes());
  }
  /// Products are queued warpgroup after warpgroup, so that one exponentiates while others multiply.
  SINTER_DEVICE_INLINE void await_turn() const { named_barrier(kTurn + maker, 256); }
  SINTER_DEVICE_INLINE void end_turn() const { named_arrive(kTurn + (maker + 1) % kMakers, 256); }

  SINTER_DEVICE_INLINE void start_scores(Scores& scores, uint32_t keys) const {
    const uint32_t rows = queries + uint32_t(maker * kForm.query_bytes());
    begin_products();
    SINTER_UNROLL
    for (int i = 0; i < kForm.depth() / 16; ++i) {
      const uint64_t left = product_operand(rows + uint32_t(i / 4 * kAttentionRows * 128)) + uint64_t(i % 4 * 2);
      const uint64_t right = product_operand(keys + uint32_t(i / 4 * kBoxBytes)) + uint64_t(i % 4 * 2);
      if (i == 0)
        start_product<kBf16, true>(scores, left, right);
      else
        start_product<kBf16, false>(scores, left, right);
    }
    commit_products();
  }
  SINTER_DEVICE_INLINE void start_values(Sums& sums, const Weights& weights, uint32_t values) const {
    const uint64_t rows = summed_rows_operand(values, kBoxBytes);
    begin_products();
    SINTER_UNROLL
    for (int i = 0; i < kSteps; ++i) add_summed_rows<kBf16>(sums, weights + i * 4, rows + uint64_t(i * 128));
    commit_products();
  }

  /// Scores become powers of two, whose largest of a row is 1; `corrections`: what earlier sums of a row are to be multiplied by.
  /// Calls sums_are_needed() once kBeforeSums are done.
  template <class Body>
  SINTER_DEVICE_INLINE void exponentiate(Scores& scores, Rows& rows, float (&corrections)[2], const Body& sums_are_needed) const {
    if (args.scale < 0) {
      SINTER_UNROLL
      for (int i = 0; i < kScores; ++i) scores[i] = -scores[i];
    }
    float base[2];
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      // Two at a time, because each waits for the one before.
      float even = rows.largest[half], odd = even;
      SINTER_UNROLL
      for (int i = half * 2; i < kScores; i += 4) {
        even = larger(even, scores[i]);
        odd = larger(odd, scores[i + 1]);
      }
      float most = larger(even, odd);
      most = larger(most, shuffle_xor(most, 1));  // four lanes share a row
      most = larger(most, shuffle_xor(most, 2));
      // A row that has seen no key yet has no distance: infinity minus infinity is no number.
      base[half] = most == kNegativeInfinity ? 0.f : most * scale;
      corrections[half] = exp2_fast(rows.largest[half] * scale - base[half]);
      rows.largest[half] = most;
    }
    float even[2] = {0, 0}, odd[2] = {0, 0};
    SINTER_UNROLL
    for (int i = 0; i < kScores; i += 2) {
      const int half = i / 2 % 2;
      scores[i] = exp2_fast(scores[i] * scale - base[half]);
      scores[i + 1] = exp2_fast(scores[i + 1] * scale - base[half]);
      even[half] += scores[i];
      odd[half] += scores[i + 1];
      if (i + 2 == kBeforeSums) sums_are_needed(scores);
    }
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) rows.total[half] = rows.total[half] * corrections[half] + (even[half] + odd[half]);
  }
  /// Two products' results side by side are the left matrix of the next product.
  static SINTER_DEVICE_INLINE void pack(const Scores& scores, Weights& weights) {
    SINTER_UNROLL
    for (int i = 0; i < kSteps * 4; ++i)
      weights[i] =
          kBf16 ? floats_to_bf16_pair(scores[2 * i], scores[2 * i + 1]) : floats_to_f16_pair(scores[2 * i], scores[2 * i + 1]);
  }
  /// Of the last tile of keys, those that there are none of; before a negative scale turns them.
  SINTER_DEVICE_INLINE void mask(Scores& scores) const {
    const int left = args.keys - (steps - 1) * kKeys - lane % 4 * 2;
    if (args.keys % kKeys == 0) return;
    const float none = args.scale < 0 ? -kNegativeInfinity : kNegativeInfinity;
    SINTER_UNROLL
    for (int i = 0; i < kScores; ++i) scores[i] = i / 4 * 8 + i % 2 < left ? scores[i] : none;
  }

  /// All keys for this warpgroup's queries.
  SINTER_DEVICE_INLINE void gather(Slot& next, Sums& sums, Rows& rows) const {
    Scores scores;
    Weights weights;
    float corrections[2];
    SINTER_UNROLL
    for (int i = 0; i < kSums; ++i) sums[i] = 0;
    const Slot last_keys = next.taken();
    start_scores(scores, await(last_keys));
    wait_products<0>();
    settle(scores);
    release(last_keys);
    mask(scores);
    exponentiate(scores, rows, corrections, [](Scores&) SINTER_INLINE_LAMBDA {});
    pack(scores, weights);
    for (int step = 1; step < steps; ++step) {
      const Slot keys = next.taken(), values = next.taken();
      const uint32_t keys_at = await(keys);
      await_turn();
      start_scores(scores, keys_at);
      start_values(sums, weights, await(values));
      end_turn();
      wait_products<1>();
      settle(scores);
      release(keys);
      exponentiate(scores, rows, corrections, [&](Scores& done) SINTER_INLINE_LAMBDA {
        settle(done);
        stay_behind(args.keys);
        wait_products<0>();
        settle(sums);
        settle(weights);
        release(values);
      });
      SINTER_UNROLL
      for (int i = 0; i < kSums; ++i) sums[i] *= corrections[i / 2 % 2];
      pack(scores, weights);
    }
    if (lane == 0) arrive_at(queries_empty + 8 * maker);
    const Slot values = next.taken();
    start_values(sums, weights, await(values));
    wait_products<0>();
    settle(sums);
    settle(weights);
    release(values);
  }
  /// What others use passes by.
  SINTER_DEVICE_INLINE void pass(Slot& next) const {
    for (int i = 0; i < 2 * steps; ++i) {
      const Slot slot = next.taken();
      await(slot);
      if (i % 2 == 1 && i + 1 < 2 * steps) {
        await_turn();
        end_turn();
      }
      warp_barrier();
      release(slot);
    }
  }

  /// Through shared memory, so that each lane stores 16 bytes.
  SINTER_DEVICE_INLINE void store(const Sums& sums, const Rows& rows, int head, int first_row) const {
    warp_barrier();  // all have stored what was there
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      float all = rows.total[half];
      all += shuffle_xor(all, 1);
      all += shuffle_xor(all, 2);
      const float share = all == 0.f ? 0.f : reciprocal_fast(all);  // no key at all gives zeros; NaN stays
      const uint32_t row = staging + uint32_t((half * 8 + lane / 4) * kForm.staging_pitch() + lane % 4 * 4);
      SINTER_UNROLL
      for (int i = 0; i < kD / 8; ++i) {
        const float low = sums[i * 4 + half * 2] * share, high = sums[i * 4 + half * 2 + 1] * share;
        shared_at<uint32_t>(row + uint32_t(i * 16)) = kBf16 ? floats_to_bf16_pair(low, high) : floats_to_f16_pair(low, high);
      }
    }
    warp_barrier();
    constexpr int kChunks = kD / 8;
    const int entry = head / args.heads;
    const uint64_t out = args.out.base + uint64_t(entry * args.out.b + (head - entry * args.heads) * args.out.h) * 2;
    SINTER_UNROLL
    for (int i = 0; i < divide_up(16 * kChunks, 32); ++i) {
      const int index = i * 32 + lane, r = index / kChunks, column = index % kChunks * 8, row = first_row + warp * 16 + r;
      if (r < 16 && row < args.queries && column < args.d)
        *reinterpret_cast<Global<Words4>*>(out + uint64_t(row * args.out.t + column) * 2) =
            shared_at<Words4>(staging + uint32_t(r * kForm.staging_pitch() + column * 2));
    }
  }

  SINTER_DEVICE_INLINE void make() const {
    Slot next;
    uint32_t parity = 0;
    // The last one begins with the first one's turn.
    if (maker == kMakers - 1) end_turn();
    for (int g = block_x(); g < args.order.groups(); g += blocks_x()) {
      const auto group = args.order.group(g);
      if (maker >= group.width) {
        pass(next);
        continue;
      }
      wait_phase(queries_full + 8 * maker, parity);
      parity ^= 1;
      Sums sums;
      Rows rows;
      gather(next, sums, rows);
      store(sums, rows, group.head, (group.first + maker) * kAttentionRows);
    }
    if (maker == 0) await_turn();  // what the last one ended with
  }

  SINTER_DEVICE_INLINE void run(uint64_t maps) {
    prepare();
    if (maker < 0) {
      fewer_registers<kMakers == 3 ? 32 : 24>();
      if (thread_x() < 32) bring(maps);
    } else {
      more_registers<kMakers == 3 ? 160 : 240>();
      make();
    }
  }
};

}  // namespace sinter::device

/// The kernel of one form and type, a module of its own.
#define SINTER_TILE_ATTENTION(form, d, makers, type, bf16)                                                      \
  SINTER_DEVICE_HOPPER_KERNEL(tile_attention_##form##_##type##__attend, sinter::device::TileAttentionMaps maps, \
                              sinter::device::TileAttentionArguments arguments) {                               \
    (void)maps;                                                                                                 \
    uint64_t at;                                                                                                \
    SINTER_PARAMETER_ADDRESS(at, maps, tile_attention_##form##_##type##__attend, 0);                            \
    sinter::device::TileAttention<d, makers, bf16>(arguments).run(at);                                          \
  }
