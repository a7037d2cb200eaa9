#pragma once
#include "backends/cuda/kernels/attention_parts.device.h"
#include "backends/cuda/kernels/resident_attention_arguments.h"

// Attention to few keys, such as a prompt's: a block holds all keys and values of a head in shared memory and its warps walk over
// the queries, each on its own and without a barrier. Queries go from memory to registers, the next ones while this tile's
// probabilities are made. What is left are the queries read and the results written.

namespace sinter::device {

/// The order of columns in the products of queries and keys: any that is the same for both. A lane's part of 32 columns is 8 of them
/// next to each other, lane % 4 * 8 and on, which it loads at once: the matrices of two products. The last 16 columns, where
/// kD is no multiple of 32, are 4 for each lane.
template <bool kBf16, int kD, int kRows>
class ResidentAttention {
  static constexpr int kThreads = kResidentThreads, kKeys = kResidentKeys, kTiles = kKeys / 8;
  static constexpr int kKeyPitch = resident_key_pitch(kD), kValuePitch = resident_value_pitch(kD);
  static constexpr int kWide = kD / 32, kHalf = kD % 32 / 16, kQueries = kRows * 16;

 public:
  SINTER_DEVICE_INLINE ResidentAttention(const AttentionArguments& a)
      : a_(a),
        lane_(thread_x() % 32),
        keys_(reinterpret_cast<uint16_t*>(shared_memory())),
        values_(keys_ + divide_up(a.keys, kKeys) * kKeys * kKeyPitch),
        q_(head_of<const uint16_t>(a.q)),
        out_(head_of<uint16_t>(a.out)) {}

  SINTER_DEVICE_INLINE void run() {
    copy_rows<kKeyPitch>(keys_, head_of<const uint16_t>(a_.k), a_.k.t);
    copy_rows<kValuePitch>(values_, head_of<const uint16_t>(a_.v), a_.v.t);
    copy_async_commit();
    const int step = blocks_x() * (kThreads / 32) * kQueries;
    int first = (block_x() * (kThreads / 32) + thread_x() / 32) * kQueries;
    load_queries(first);
    copy_async_wait<0>();
    barrier();
    for (; first < a_.queries; first += step) attend(first, first + step);
  }

 private:
  /// All rows of the tiles, zeros for those and the columns that are not there.
  template <int kPitch>
  SINTER_DEVICE_INLINE void copy_rows(uint16_t* to, const uint16_t* from, int64_t stride) const {
    constexpr int kChunks = kD / 8;
    const int count = divide_up(a_.keys, kKeys) * kKeys * kChunks;
    for (int i = thread_x(); i < count; i += kThreads) {
      const int row = i / kChunks, column = i % kChunks * 8;
      const bool inside = row < a_.keys && column < a_.d;
      copy_async(to + row * kPitch + column, inside ? from + row * stride + column : from, inside);
    }
  }

  SINTER_DEVICE_INLINE void load_queries(int first) {
    SINTER_UNROLL
    for (int r = 0; r < kRows * 2; ++r) {
      const int query = first + r * 8 + lane_ / 4;
      const uint16_t* row = q_ + query * a_.q.t;
      SINTER_UNROLL
      for (int c = 0; c < kWide; ++c) {
        const int column = c * 32 + lane_ % 4 * 8;
        Words4 words = {};
        if (query < a_.queries && column < a_.d) words = *reinterpret_cast<const Words4*>(row + column);
        SINTER_UNROLL
        for (int i = 0; i < 4; ++i) queries_[r / 2][c * 2 + i / 2][i % 2 * 2 + r % 2] = words[i];
      }
      if constexpr (kHalf) {
        const int column = kWide * 32 + lane_ % 4 * 4;
        Words2 words = {};
        if (query < a_.queries && column < a_.d) words = *reinterpret_cast<const Words2*>(row + column);
        SINTER_UNROLL
        for (int i = 0; i < 2; ++i) queries_[r / 2][kWide * 2][i * 2 + r % 2] = words[i];
      }
    }
  }

  SINTER_DEVICE_INLINE void attend(int first, int next) {
    Gathered<kD> gathered[kRows];
    for (int key = 0; key < a_.keys; key += kKeys) {
      float scores[kRows][kTiles][4] = {};
      products_with(keys_ + (key + lane_ / 4) * kKeyPitch, scores);
      if (key + kKeys >= a_.keys) load_queries(next);
      scale_and_mask(a_.keys - key - lane_ % 4 * 2, scores);
      SINTER_UNROLL
      for (int r = 0; r < kRows; ++r) gathered[r].exponentiate(scores[r], key > 0);
      add_values<kBf16, kValuePitch>(values_ + key * kValuePitch, scores, gathered);
    }
    SINTER_UNROLL
    for (int r = 0; r < kRows; ++r) store(first + r * 16 + lane_ / 4, gathered[r]);
  }

  SINTER_DEVICE_INLINE void products_with(const uint16_t* key, float (&scores)[kRows][kTiles][4]) const {
    SINTER_UNROLL
    for (int c = 0; c < kWide; ++c) {
      SINTER_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        const auto words = *reinterpret_cast<const Words4*>(key + j * 8 * kKeyPitch + c * 32 + lane_ % 4 * 8);
        SINTER_UNROLL
        for (int i = 0; i < 2; ++i) {
          SINTER_UNROLL
          for (int r = 0; r < kRows; ++r) multiply<kBf16>(scores[r][j], queries_[r][c * 2 + i], words[i * 2], words[i * 2 + 1]);
        }
      }
    }
    if constexpr (kHalf) {
      SINTER_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        const auto words = *reinterpret_cast<const Words2*>(key + j * 8 * kKeyPitch + kWide * 32 + lane_ % 4 * 4);
        SINTER_UNROLL
        for (int r = 0; r < kRows; ++r) multiply<kBf16>(scores[r][j], queries_[r][kWide * 2], words[0], words[1]);
      }
    }
  }

  /// `left`: how many keys there are from this lane's first on. The scores of those beyond are 0 so far.
  SINTER_DEVICE_INLINE void scale_and_mask(int left, float (&scores)[kRows][kTiles][4]) const {
    const float scale = a_.scale * kLog2E;
    SINTER_UNROLL
    for (int j = 0; j < kTiles; ++j) {
      SINTER_UNROLL
      for (int i = 0; i < 2; ++i) {
        const float mask = j * 8 + i < left ? 0.f : kNegativeInfinity;
        SINTER_UNROLL
        for (int r = 0; r < kRows * 2; ++r) {
          float& score = scores[r / 2][j][r % 2 * 2 + i];
          score = score * scale + mask;
        }
      }
    }
  }

  /// A lane has two neighbouring columns of each product's 8; lanes of a row trade them, so that each stores 16 bytes.
  SINTER_DEVICE_INLINE void store(int first, const Gathered<kD>& gathered) const {
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      const float share = gathered.share(half);
      const int query = first + half * 8;
      uint16_t* row = out_ + query * a_.out.t;
      auto pair = [&](int product) SINTER_INLINE_LAMBDA {
        return pair_of<kBf16>(gathered.sums[product][half * 2] * share, gathered.sums[product][half * 2 + 1] * share);
      };
      SINTER_UNROLL
      for (int c = 0; c < kWide; ++c) {
        uint32_t words[4] = {pair(c * 4), pair(c * 4 + 1), pair(c * 4 + 2), pair(c * 4 + 3)};
        trade<1>(words[0], words[1]);
        trade<1>(words[2], words[3]);
        trade<2>(words[0], words[2]);
        trade<2>(words[1], words[3]);
        const int column = c * 32 + lane_ % 4 * 8;
        if (query < a_.queries && column < a_.d)
          *reinterpret_cast<Words4*>(row + column) = Words4{words[0], words[1], words[2], words[3]};
      }
      if constexpr (kHalf) {
        uint32_t words[2] = {pair(kWide * 4), pair(kWide * 4 + 1)};
        trade<1>(words[0], words[1]);
        const int column = kWide * 32 + lane_ % 2 * 8 + lane_ % 4 / 2 * 4;
        if (query < a_.queries && column < a_.d) *reinterpret_cast<Words2*>(row + column) = Words2{words[0], words[1]};
      }
    }
  }

  /// Of two lanes whose numbers differ in this bit: the one without it gives its second word for the other's first.
  template <int kBit>
  SINTER_DEVICE_INLINE void trade(uint32_t& first, uint32_t& second) const {
    const bool upper = lane_ & kBit;
    const uint32_t other = shuffle_xor(upper ? first : second, kBit);
    (upper ? first : second) = other;
  }

  const AttentionArguments& a_;
  const int lane_;
  uint16_t *keys_, *values_;
  const uint16_t* q_;
  uint16_t* out_;
  uint32_t queries_[kRows][kD / 16][4];
};

}  // namespace sinter::device

#define SINTER_RESIDENT_ATTENTION(type, bf16, d, rows)                               \
  SINTER_DEVICE_KERNEL(resident_attention_##d##_##type##__##rows, AttentionArguments a) { \
    wait_for_operands();                                                             \
    ResidentAttention<bf16, d, rows>(a).run();                                       \
  }
