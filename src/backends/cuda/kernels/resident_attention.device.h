#pragma once
#include "backends/cuda/kernels/attention_parts.device.h"
#include "backends/cuda/kernels/resident_attention_arguments.h"

// Attention to few keys, such as a prompt's: a block holds all keys and values of a head in shared memory, and its warps walk
// over the queries, each by itself and without a barrier. What is left are the queries read and the results written.

namespace sinter::device {

/// Each warp has two places for 16 queries: while the results of some are made and leave through one, the next arrive in the
/// other. kMany: keys are taken kResidentKeys at a time; else there are no more, and no sums are held while scores are made.
template <bool kBf16, int kD, bool kMany>
class ResidentAttention {
  static constexpr int kThreads = kResidentThreads, kKeys = kResidentKeys, kTiles = kKeys / 8;
  static constexpr int kPitch = resident_pitch(kD), kQueries = 16;

 public:
  SINTER_DEVICE_INLINE ResidentAttention(const AttentionArguments& a)
      : a_(a),
        lane_(thread_x() % 32),
        keys_(reinterpret_cast<uint16_t*>(shared_memory())),
        values_(keys_ + divide_up(a.keys, kKeys) * kKeys * kPitch),
        place_(values_ + divide_up(a.keys, kKeys) * kKeys * kPitch + thread_x() / 32 * 2 * kQueries * kPitch),
        other_place_(place_ + kQueries * kPitch),
        scale_(larger(a.scale < 0 ? -a.scale : a.scale, kLeastScale) * kLog2E) {}

  SINTER_DEVICE_INLINE void run() {
    const int step = blocks_x() * (kThreads / 32) * kQueries;
    int first = (block_x() * (kThreads / 32) + thread_x() / 32) * kQueries;
    copy_keys(keys_, a_.k);
    copy_keys(values_, a_.v);
    copy_queries(place_, first);
    copy_async_wait<0>();
    barrier();
    for (; first < a_.queries; first += step) {
      copy_queries(other_place_, first + step);
      attend(first);
      copy_async_wait<0>();
      warp_barrier();
      uint16_t* used = place_;
      place_ = other_place_;
      other_place_ = used;
    }
  }

 private:
  /// Scores times 0 would not be masked; by so little they all count the same.
  static constexpr float kLeastScale = 1e-30f;

  /// Four lanes copy a row, each 16 of every 64 bytes; zeros where it is not there, and for columns that are not.
  SINTER_DEVICE_INLINE void copy_row(uint16_t* to, const uint16_t* from, bool is_row) const {
    SINTER_UNROLL
    for (int i = 0; i < kD; i += 32) {
      const int column = i + lane_ % 4 * 8;
      if (i + 32 > kD && column >= kD) continue;
      const bool inside = is_row && column < a_.d;
      copy_async(to + column, inside ? from + column : from, inside);
    }
  }
  SINTER_DEVICE_INLINE void copy_keys(uint16_t* to, const HeadsArguments& heads) const {
    const auto* from = head_of<const uint16_t>(heads);
    const int rows = divide_up(a_.keys, kKeys) * kKeys;
    for (int row = thread_x() / 4; row < rows; row += kThreads / 4)
      copy_row(to + row * kPitch, row < a_.keys ? from + row * heads.t : from, row < a_.keys);
  }
  SINTER_DEVICE_INLINE void copy_queries(uint16_t* to, int first) const {
    if (first < a_.queries) {
      const auto* from = head_of<const uint16_t>(a_.q);
      SINTER_UNROLL
      for (int row = 0; row < kQueries; row += 8) {
        const int query = first + row + lane_ / 4;
        copy_row(to + (row + lane_ / 4) * kPitch, query < a_.queries ? from + query * a_.q.t : from, query < a_.queries);
      }
    }
    copy_async_commit();
  }

  SINTER_DEVICE_INLINE void attend(int first) const {
    Gathered<kD> gathered;
    for (int key = 0; kMany ? key < a_.keys : key == 0; key += kKeys) {
      float scores[kTiles][4] = {};
      uint32_t weights[kTiles][2];
      add_products<kBf16, kD, kPitch>(place_, keys_ + key * kPitch, scores);
      mask(a_.keys - key, scores);
      gathered.template exponentiate<kBf16>(scores, scale_, key > 0, weights);
      add_values<kBf16, kPitch>(values_ + key * kPitch, weights, gathered);
    }
    warp_barrier();  // all lanes are done with these queries
    store(first, gathered);
  }

  /// `keys`: how many there are of these.
  SINTER_DEVICE_INLINE void mask(int keys, float (&scores)[kTiles][4]) const {
    constexpr int kOftenPartial = 2;
    if (a_.scale < 0) {
      SINTER_UNROLL
      for (int i = 0; i < kTiles * 4; ++i) scores[i / 4][i % 4] = -scores[i / 4][i % 4];
    }
    if (keys < kKeys - kOftenPartial * 8) mask_tiles<0, kTiles - kOftenPartial>(keys, scores);
    mask_tiles<kTiles - kOftenPartial, kTiles>(keys, scores);
  }
  template <int kFrom, int kTo>
  SINTER_DEVICE_INLINE void mask_tiles(int keys, float (&scores)[kTiles][4]) const {
    const int left = keys - lane_ % 4 * 2;
    SINTER_UNROLL
    for (int i = kFrom * 4; i < kTo * 4; ++i) {
      float& score = scores[i / 4][i % 4];
      score = i / 4 * 8 + i % 2 < left ? score : kNegativeInfinity;
    }
  }

  /// Through shared memory, so that each lane stores 16 bytes.
  SINTER_DEVICE_INLINE void store(int first, const Gathered<kD>& gathered) const {
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float share = gathered.share(half);
      uint16_t* row = place_ + (half * 8 + lane_ / 4) * kPitch + lane_ % 4 * 2;
      SINTER_UNROLL
      for (int d = 0; d < kD / 8; ++d)
        *reinterpret_cast<uint32_t*>(row + d * 8) =
            pair_of<kBf16>(gathered.sums[d][half * 2] * share, gathered.sums[d][half * 2 + 1] * share);
    }
    warp_barrier();
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const int row = half * 8 + lane_ / 4;
      if (first + row >= a_.queries) continue;
      uint16_t* out = head_of<uint16_t>(a_.out) + (first + row) * a_.out.t;
      SINTER_UNROLL
      for (int i = 0; i < kD; i += 32) {
        const int column = i + lane_ % 4 * 8;
        if (column < a_.d)
          *reinterpret_cast<Words4*>(out + column) = *reinterpret_cast<const Words4*>(place_ + row * kPitch + column);
      }
    }
  }

  const AttentionArguments& a_;
  const int lane_;
  uint16_t *const keys_, *const values_, *place_, *other_place_;
  const float scale_;  ///< to powers of two
};

}  // namespace sinter::device

#define SINTER_RESIDENT_ATTENTION_FORM(type, bf16, d, form, many)                         \
  SINTER_DEVICE_KERNEL(resident_attention_##d##_##type##__##form, AttentionArguments a) { \
    wait_for_operands();                                                                  \
    ResidentAttention<bf16, d, many>(a).run();                                            \
  }
#define SINTER_RESIDENT_ATTENTION(type, bf16, d)                  \
  namespace sinter::device {                                      \
  SINTER_RESIDENT_ATTENTION_FORM(type, bf16, d, one_tile, false)  \
  SINTER_RESIDENT_ATTENTION_FORM(type, bf16, d, many_tiles, true) \
  }
