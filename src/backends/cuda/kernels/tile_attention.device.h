#pragma once
// Attention of 16-bit heads to any number of keys on devices of capability 9.0.
//
// One warpgroup lets the copying unit bring tiles of keys and values through a ring of slots in shared memory. Each of the others
// has 64 queries: it multiplies them with 128 keys (64 where heads are wide), turns the scores into weights in its registers, and
// multiplies these with the values, while other warpgroups are at something else. Blocks stay, and go from group of queries to
// group of queries; what the next one needs comes while one is at work.
//
// Weights are powers of two counted from the largest score of a row among the first keys, whatever comes later: f32 and bf16 have
// room for what is larger, and f16 is given it. Where a row has overflown in the end, or lost its digits, the block makes the
// group again when it is done with all, from the largest of all scores, for which it multiplies queries and keys once more.
//
// Of 64 queries and 128 keys the exponentials take 512 cycles, products with heads of 40 take 352, of 64: 512.
#include "backends/cuda/kernels/hopper_intrinsics.h"
#include "backends/cuda/kernels/tile_attention_arguments.h"

namespace sinter::device {

template <TileAttentionForm kForm, bool kBf16>
struct TileAttention {
  static constexpr int kD = kForm.d, kMakers = kForm.makers;
  static constexpr int kKeys = kForm.keys, kSlots = kForm.slots(), kBoxBytes = kKeys * 128;
  static constexpr int kScores = kKeys / 2, kSums = kD / 2;  // of a thread
  static constexpr int kSteps = kKeys / 16;
  static constexpr int kTurn = 1;  // the first of the named barriers that say whose turn it is
  static_assert(kForm.registers() <= kForm.started_registers());
  static constexpr bool kAhead = kForm.ahead(), kFew = kForm.few();
  static constexpr int kPlaces = kMakers * kForm.places();  // of queries
  /// Weights of a row are added up by a product with ones. Products of one warp wait for those of warpgroups, so only where
  /// these are waited for anyway; otherwise by additions, while other warpgroups exponentiate.
  static constexpr bool kTotalsByProduct = kAhead;
  static constexpr float kLog2E = 1.4426950408889634f, kNegativeInfinity = -__builtin_inff();
  /// Scores times 0 would not be masked; by so little they all count the same.
  static constexpr float kLeastScale = 1e-30f;
  /// The first tile's largest weight is 2^-kRoom: the less room, the more digits small weights have as f16.
  static constexpr int kRoom = kBf16 || kFew ? 0 : 4;
  /// A row whose total is outside has lost digits, or overflown.
  static constexpr float kLeastTotal = kBf16 ? 0.5f : 0x1p-5f, kMostTotal = 0x1p126f;
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
    uint32_t place;  // of the tile's queries
    float base[2];   // what exponents of two are counted from
    // Totals of weights as they are multiplied with values: of this lane's, or, where a product makes them, of the row's, twice.
    float totals[4] = {0, 0, 0, 0};
  };

  const TileAttentionArguments& args;
  const int maker, warp, lane, steps;
  uint32_t slots, queries, staging, full, empty, queries_full, queries_empty, failed;  // addresses in shared memory
  float scale;                                                                         // of exponents of two

  SINTER_DEVICE_INLINE explicit TileAttention(const TileAttentionArguments& a)
      : args(a),
        maker(thread_x() / 128),
        warp(thread_x() / 32 % 4),
        lane(thread_x() % 32),
        steps(divide_up(a.keys, kKeys)),
        scale((a.scale < 0 ? -larger(-a.scale, kLeastScale) : larger(a.scale, kLeastScale)) * kLog2E) {
    slots = (shared_address(shared_memory()) + 1023) & ~1023u;
    queries = slots + kSlots * kForm.slot_bytes();
    const uint32_t behind = queries + kPlaces * kForm.query_bytes();
    staging = behind + uint32_t(maker * 4 + warp) * kForm.staging_bytes();
    full = behind + kMakers * 4 * kForm.staging_bytes();
    empty = full + 8 * kSlots;
    queries_full = empty + 8 * kSlots;
    queries_empty = queries_full + 8 * kPlaces;
    failed = queries_empty + 8 * kPlaces;
  }

  SINTER_DEVICE_INLINE void prepare() {
    if (thread_x() == 0) {
      for (int s = 0; s < kSlots; ++s) {
        make_barrier(full + 8 * s, 1);
        make_barrier(empty + 8 * s, kMakers * 4);
      }
      for (int p = 0; p < kPlaces; ++p) {
        make_barrier(queries_full + 8 * p, 1);
        make_barrier(queries_empty + 8 * p, 4);
      }
      publish_barriers();
    }
    if (thread_x() < kAttentionMarks) shared_at<uint32_t>(failed + 4 * uint32_t(thread_x())) = 0;
    barrier();
  }

  /// Where a warpgroup's queries lie, and which of the place's uses it is: of its turns, counted from 0.
  struct Place {
    uint32_t number, parity;
  };
  static SINTER_DEVICE_INLINE Place place(int maker, uint32_t turn) {
    constexpr uint32_t kEach = kForm.places();
    return {uint32_t(maker) * kEach + turn % kEach, turn / kEach & 1};
  }

  // The warp that copies.

  /// Rows of a head, from a token on.
  SINTER_DEVICE_INLINE void copy_rows(uint32_t to, uint64_t map, int head, int token, int rows, uint32_t barrier) const {
    if (thread_x() % 128 != 0) return;
    const int entry = head / args.heads;
    arrive_expecting(barrier, uint32_t(kForm.boxes() * rows * 128));
    SINTER_UNROLL
    for (int box = 0; box < kForm.boxes(); ++box)
      copy_box(to + uint32_t(box * rows * 128), map, box * 64, head - entry * args.heads, token, entry, barrier);
  }
  SINTER_DEVICE_INLINE void bring_queries(const Place& at, uint64_t map, int head, int tile) const {
    wait_phase(queries_empty + 8 * at.number, at.parity ^ 1);  // nobody waits for a place that was never used
    copy_rows(queries + at.number * kForm.query_bytes(), map, head, tile * kAttentionRows, kAttentionRows,
              queries_full + 8 * at.number);
    warp_barrier();
  }
  /// One thread would do; but the others of its warp, waiting elsewhere, would hold it up.
  SINTER_DEVICE_INLINE void bring_slot(Slot& next, uint64_t map, int head, int token) const {
    const Slot slot = next.taken();
    wait_phase(empty + 8 * slot.number, slot.parity ^ 1);  // nobody waits for a slot that was never used
    copy_rows(slots + uint32_t(slot.number * kForm.slot_bytes()), map, head, token, kKeys, full + 8 * slot.number);
    warp_barrier();
  }
  /// The order is that in which they are used; the last keys, of which some may be none, come first.
  SINTER_DEVICE_INLINE void bring_group(Slot& next, uint64_t k, uint64_t v, int head, bool exactly) const {
    const int last = (steps - 1) * kKeys;
    if (exactly)
      for (int token = last; token >= 0; token -= kKeys) bring_slot(next, k, head, token);
    if constexpr (kAhead) bring_slot(next, k, head, last);
    for (int token = last; token >= 0; token -= kKeys) {
      if (const int key = kAhead ? token - kKeys : token; key >= 0) bring_slot(next, k, head, key);
      bring_slot(next, v, head, token);
    }
  }
  /// `turns`: those of each warpgroup, two bits that say all that a place depends on.
  SINTER_DEVICE_INLINE void bring(uint64_t maps, Slot& next, uint32_t& turns, bool again) const {
    const uint64_t q = maps, k = q + sizeof(TileAttentionMaps::q), v = k + sizeof(TileAttentionMaps::k);
    for (int g = block_x(), i = 0; g < args.order.groups(); g += blocks_x(), ++i) {
      if (again && !has_failed(i)) continue;
      const auto group = args.order.group(g);
      for (int m = 0; m < group.width; ++m) {
        const uint32_t turn = turns >> 2 * m & 3;
        turns = (turns & ~(3u << 2 * m)) | ((turn + 1) & 3) << 2 * m;
        bring_queries(place(m, turn), q, group.head, group.first + m);
      }
      bring_group(next, k, v, group.head, again);
    }
  }
  /// Of the groups that this block makes, that one, or another that shares its mark.
  SINTER_DEVICE_INLINE bool has_failed(int group) const {
    return shared_at<uint32_t>(failed + 4 * uint32_t(group % kAttentionMarks)) != 0;
  }

  // The warpgroups that make results.

  SINTER_DEVICE_INLINE void release(const Slot& slot) const {
    if (lane == 0) arrive_at(empty + 8 * slot.number);
  }
  SINTER_DEVICE_INLINE void release_queries(uint32_t place) const {
    if (lane == 0) arrive_at(queries_empty + 8 * place);
  }
  SINTER_DEVICE_INLINE uint32_t await(const Slot& slot) const {
    wait_phase(full + 8 * slot.number, slot.parity);
    return slots + uint32_t(slot.number * kForm.slot_bytes());
  }
  /// Products are queued warpgroup after warpgroup, so that one exponentiates while others multiply.
  SINTER_DEVICE_INLINE void await_turn() const { named_barrier(kTurn + maker, 256); }
  SINTER_DEVICE_INLINE void end_turn() const { named_arrive(kTurn + (maker + 1) % kMakers, 256); }

  SINTER_DEVICE_INLINE void start_scores(Scores& scores, uint32_t keys, uint32_t place) const {
    const uint32_t rows = queries + place * kForm.query_bytes();
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

  /// Raises `largest` to the rows' largest exponents among these scores.
  SINTER_DEVICE_INLINE void look(const Scores& scores, float (&largest)[2]) const {
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      float even = largest[half], odd = even;  // two, because each waits for the one before
      SINTER_UNROLL
      for (int i = half * 2; i < kScores; i += 4) {
        even = larger(even, scores[i] * scale);
        odd = larger(odd, scores[i + 1] * scale);
      }
      largest[half] = larger(even, odd);
    }
  }
  SINTER_DEVICE_INLINE void choose_bases(Rows& rows, const float (&largest)[2]) const {
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      float most = largest[half];
      most = larger(most, shuffle_xor(most, 1));  // four lanes share a row
      most = larger(most, shuffle_xor(most, 2));
      // A row that has seen no key yet has no distance: infinity minus infinity is no number.
      rows.base[half] = most == kNegativeInfinity ? 0.f : most + float(kRoom);
    }
  }
  /// Scores of 16 keys become powers of two, whose bits are added to `bits`.
  SINTER_DEVICE_INLINE void exponentiate(Scores& scores, const Rows& rows, int step, uint32_t& bits) const {
    SINTER_UNROLL
    for (int i = step * 8; i < step * 8 + 8; ++i) {
      scores[i] = exp2_fast(scores[i] * scale - rows.base[i / 2 % 2]);
      bits |= as_bits(scores[i]);
    }
  }
  /// Whether any has become large.
  SINTER_DEVICE_INLINE bool exponentiate(Scores& scores, const Rows& rows) const {
    constexpr uint32_t kTwoOrMore = 0x40000000;  // of a number that is not negative
    uint32_t bits = 0;
    SINTER_UNROLL
    for (int step = 0; step < kSteps; ++step) exponentiate(scores, rows, step, bits);
    return (bits & kTwoOrMore) != 0;
  }
  /// f16 overflows where weights are large, so then they, and what was made of earlier ones, are counted from another base.
  static SINTER_DEVICE_INLINE void lower(Scores& scores, Sums& sums, Rows& rows) {
    float factors[2];
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      float most = 0;
      SINTER_UNROLL
      for (int i = half * 2; i < kScores; i += 4) most = larger(larger(most, scores[i]), scores[i + 1]);
      most = larger(most, shuffle_xor(most, 1));
      most = larger(most, shuffle_xor(most, 2));
      const int down = most >= 2.f ? int(as_bits(most) >> 23) - 127 + kRoom : 0;
      // Where the factor has no such number, what was made of other tiles would be lost: no number, so it is made again.
      factors[half] = as_float(down < 127 ? uint32_t(127 - down) << 23 : 0x7fc00000u);
      rows.base[half] += float(down);
      rows.totals[half * 2] *= factors[half];
      rows.totals[half * 2 + 1] *= factors[half];
    }
    SINTER_UNROLL
    for (int i = 0; i < kScores; ++i) scores[i] *= factors[i / 2 % 2];
    SINTER_UNROLL
    for (int i = 0; i < kSums; ++i) sums[i] *= factors[i / 2 % 2];
  }
  /// Of 16 keys. Two products' results side by side are the left matrix of the next product.
  static SINTER_DEVICE_INLINE void pack(const Scores& scores, Weights& weights, Rows& rows, int step) {
    constexpr uint32_t kOnes = kBf16 ? 0x3f803f80 : 0x3c003c00;
    uint32_t left[4];
    SINTER_UNROLL
    for (int i = 0; i < 4; ++i) {
      const float* pair = scores + step * 8 + i * 2;
      weights[step * 4 + i] = left[i] = pair_of<kBf16>(pair[0], pair[1]);
      if constexpr (!kTotalsByProduct) {
        rows.totals[i % 2 * 2] += kBf16 ? as_float(left[i] << 16) : f16_bits_to_float(uint16_t(left[i]));
        rows.totals[i % 2 * 2] += kBf16 ? as_float(left[i] & 0xffff0000) : f16_bits_to_float(uint16_t(left[i] >> 16));
      }
    }
    if constexpr (kTotalsByProduct) multiply<kBf16>(rows.totals, left, kOnes, kOnes);
  }
  static SINTER_DEVICE_INLINE void pack(Scores& scores, Weights& weights, Sums& sums, Rows& rows, bool some_are_large) {
    if (!kBf16 && any_lane(some_are_large)) lower(scores, sums, rows);
    SINTER_UNROLL
    for (int step = 0; step < kSteps; ++step) pack(scores, weights, rows, step);
  }
  SINTER_DEVICE_INLINE void weigh(Scores& scores, Weights& weights, Sums& sums, Rows& rows) const {
    if constexpr (kBf16 || kFew) {
      uint32_t bits = 0;  // of weights that are not large here, or may be
      SINTER_UNROLL
      for (int step = 0; step < kSteps; ++step) {
        exponentiate(scores, rows, step, bits);
        pack(scores, weights, rows, step);
      }
    } else {
      const bool some_are_large = exponentiate(scores, rows);
      pack(scores, weights, sums, rows, some_are_large);
    }
  }
  /// Of the last tile of keys, those that there are none of.
  SINTER_DEVICE_INLINE void mask(Scores& scores) const {
    const int left = args.keys - (steps - 1) * kKeys - lane % 4 * 2;
    if (args.keys % kKeys == 0) return;
    const float none = args.scale < 0 ? -kNegativeInfinity : kNegativeInfinity;
    SINTER_UNROLL
    for (int i = 0; i < kScores; ++i) scores[i] = i / 4 * 8 + i % 2 < left ? scores[i] : none;
  }

  SINTER_DEVICE_INLINE void make_scores(Scores& scores, const Slot& keys, const Rows& rows) const {
    start_scores(scores, await(keys), rows.place);
    wait_products<0>();
    settle(scores);
    release(keys);
  }
  SINTER_DEVICE_INLINE void look_at_all(Slot& next, Rows& rows) const {
    float largest[2] = {kNegativeInfinity, kNegativeInfinity};
    for (int step = 0; step < steps; ++step) {
      Scores scores;
      make_scores(scores, next.taken(), rows);
      if (step == 0) mask(scores);
      look(scores, largest);
    }
    choose_bases(rows, largest);
  }
  SINTER_DEVICE_INLINE void look_at_first(Scores& scores, Rows& rows, bool bases_are_known) const {
    mask(scores);
    if (bases_are_known) return;
    float largest[2] = {kNegativeInfinity, kNegativeInfinity};
    look(scores, largest);
    choose_bases(rows, largest);
  }
  SINTER_DEVICE_INLINE void add_values(Sums& sums, Weights& weights, const Slot& values) const {
    start_values(sums, weights, await(values));
    wait_products<0>();
    settle(sums);
    settle(weights);
    release(values);
  }

  /// All keys for this warpgroup's queries.
  SINTER_DEVICE_INLINE void gather(Slot& next, Sums& sums, Rows& rows, bool exactly) const {
    if (exactly) look_at_all(next, rows);
    SINTER_UNROLL
    for (int i = 0; i < kSums; ++i) sums[i] = 0;
    kAhead ? gather_ahead(next, sums, rows, exactly) : gather_in_turn(next, sums, rows, exactly);
  }
  SINTER_DEVICE_INLINE void gather_in_turn(Slot& next, Sums& sums, Rows& rows, bool exactly) const {
    Scores scores;
    Weights weights;
    for (int step = 0; step < steps; ++step) {
      const Slot keys = next.taken(), values = next.taken();
      make_scores(scores, keys, rows);
      if (step == 0) look_at_first(scores, rows, exactly);
      weigh(scores, weights, sums, rows);
      add_values(sums, weights, values);
    }
    release_queries(rows.place);
  }
  SINTER_DEVICE_INLINE void gather_ahead(Slot& next, Sums& sums, Rows& rows, bool exactly) const {
    Scores scores;
    Weights weights;
    make_scores(scores, next.taken(), rows);
    look_at_first(scores, rows, exactly);
    weigh(scores, weights, sums, rows);
    for (int step = 1; step < steps; ++step) {
      const Slot keys = next.taken(), values = next.taken();
      const uint32_t keys_at = await(keys);
      await_turn();
      start_scores(scores, keys_at, rows.place);
      start_values(sums, weights, await(values));
      end_turn();
      wait_products<1>();
      settle(scores);
      release(keys);
      const bool some_are_large = exponentiate(scores, rows);
      settle(scores);
      stay_behind(args.keys);
      wait_products<0>();
      settle(sums);
      settle(weights);
      release(values);
      pack(scores, weights, sums, rows, some_are_large);
    }
    release_queries(rows.place);
    add_values(sums, weights, next.taken());
  }
  /// What others use passes by.
  SINTER_DEVICE_INLINE void pass(Slot& next, bool exactly) const {
    const auto pass_slot = [&]() SINTER_INLINE_LAMBDA {
      const Slot slot = next.taken();
      await(slot);
      warp_barrier();
      release(slot);
    };
    if (exactly)
      for (int i = 0; i < steps; ++i) pass_slot();
    for (int i = 0; i < steps; ++i) {
      pass_slot();
      if (kAhead && i > 0) {
        await_turn();
        end_turn();
      }
      pass_slot();
    }
  }

  /// Through shared memory, so that each lane stores 16 bytes. `group` is marked where its weights have lost digits; negative
  /// where it has been made again: others read the marks then.
  SINTER_DEVICE_INLINE void store(const Sums& sums, const Rows& rows, int head, int first_row, int group) const {
    warp_barrier();  // all have stored what was there
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      float all = rows.totals[half * 2];
      if constexpr (!kTotalsByProduct) {
        all += shuffle_xor(all, 1);
        all += shuffle_xor(all, 2);
      }
      const float share = all == 0.f ? 0.f : reciprocal_fast(all);  // no key at all gives zeros; NaN stays
      const uint32_t row = staging + uint32_t((half * 8 + lane / 4) * kForm.staging_pitch() + lane % 4 * 4);
      if constexpr (!kFew) {
        float nothing = 0;  // but no number where a sum is none, or infinite
        SINTER_UNROLL
        for (int i = 0; i < kD / 8; ++i) nothing += (sums[i * 4 + half * 2] + sums[i * 4 + half * 2 + 1]) * 0.f;
        if (group >= 0 && !(all >= kLeastTotal && all <= kMostTotal && nothing == 0.f))
          shared_at<uint32_t>(failed + 4 * uint32_t(group % kAttentionMarks)) = 1;
      }
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

  SINTER_DEVICE_INLINE void make(Slot& next, uint32_t& turn, bool again) const {
    for (int g = block_x(), i = 0; g < args.order.groups(); g += blocks_x(), ++i) {
      if (again && !has_failed(i)) continue;
      const auto group = args.order.group(g);
      if (maker >= group.width) {
        pass(next, again);
        continue;
      }
      const Place at = place(maker, turn++);
      wait_phase(queries_full + 8 * at.number, at.parity);
      Sums sums;
      Rows rows;
      rows.place = at.number;
      gather(next, sums, rows, again);
      store(sums, rows, group.head, (group.first + maker) * kAttentionRows, again ? -1 : i);
    }
  }

  SINTER_DEVICE_INLINE void run(uint64_t maps) {
    prepare();
    Slot next;
    if (maker == kMakers) {
      fewer_registers<kForm.copier_registers()>();
      const bool copies = thread_x() % 128 < 32;
      uint32_t turns = 0;
      if (copies) {
        prefetch_map(maps);
        prefetch_map(maps + sizeof(TileAttentionMaps::q));
        prefetch_map(maps + sizeof(TileAttentionMaps::q) + sizeof(TileAttentionMaps::k));
        wait_for_operands();
      }
      for (int again = 0; again < 2; ++again) {
        if (copies) bring(maps, next, turns, again != 0);
        barrier();
      }
    } else {
      more_registers<kForm.maker_registers()>();
      uint32_t turn = 0;
      // The last one begins with the first one's turn.
      if (kAhead && maker == kMakers - 1) end_turn();
      for (int again = 0; again < 2; ++again) {
        make(next, turn, again != 0);
        barrier();
      }
      if (kAhead && maker == 0) await_turn();  // what the last one ended with
    }
  }
};

}  // namespace sinter::device

/// The kernel of one form and type, a module of its own.
#define SINTER_TILE_ATTENTION(module, bf16, ...) SINTER_TILE_ATTENTION_BY(TileAttention, module, bf16, __VA_ARGS__)
#define SINTER_TILE_ATTENTION_BY(maker, module, bf16, ...)                                          \
  SINTER_DEVICE_HOPPER_KERNEL(module##__attend, sinter::device::TileAttentionMaps maps,             \
                              sinter::device::TileAttentionArguments arguments) {                   \
    (void)maps;                                                                                     \
    uint64_t at;                                                                                    \
    SINTER_PARAMETER_ADDRESS(at, maps, module##__attend, 0);                                        \
    sinter::device::maker<sinter::device::TileAttentionForm{__VA_ARGS__}, bf16>(arguments).run(at); \
  }
