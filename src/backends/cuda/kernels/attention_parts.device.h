#pragma once
#include "backends/cuda/kernels/attention_arguments.h"
#include "backends/cuda/kernels/device.h"

// What kernels of attention have in common: a warp's 16 queries, their scores on some keys, the weighted sum of values. See
// multiply_bf16() for who holds what of a product: a lane has rows lane / 4 and lane / 4 + 8.

namespace sinter::device {

constexpr float kLog2E = 1.4426950408889634f;
constexpr float kNegativeInfinity = -__builtin_inff();

/// The address of a head's first element.
template <class T>
SINTER_DEVICE_INLINE T* head_of(const HeadsArguments& a) {
  return reinterpret_cast<T*>(a.base) + block_z() * a.b + block_y() * a.h;
}

/// Products of 16 queries with kTiles times 8 keys, both in shared memory, rows kPitch apart; added to `scores`.
template <bool kBf16, int kD, int kPitch, int kTiles>
SINTER_DEVICE_INLINE void add_products(const uint16_t* queries, const uint16_t* keys, float (&scores)[kTiles][4]) {
  const int lane = thread_x() % 32;
  SINTER_UNROLL
  for (int d = 0; d < kD; d += 16) {
    uint32_t rows[4];
    load_matrices(rows, queries + lane % 16 * kPitch + d + lane / 16 * 8);
    SINTER_UNROLL
    for (int j = 0; j < kTiles / 2; ++j) {
      uint32_t columns[4];
      load_matrices(columns, keys + (j * 16 + lane / 16 * 8 + lane % 8) * kPitch + d + lane / 8 % 2 * 8);
      multiply<kBf16>(scores[2 * j], rows, columns[0], columns[1]);
      multiply<kBf16>(scores[2 * j + 1], rows, columns[2], columns[3]);
    }
  }
}

/// What 16 queries have gathered from the keys seen so far.
template <int kD>
struct Gathered {
  float sums[kD / 8][4] = {};  ///< of values, each times 2^(scale * (score - largest))
  float largest[2] = {kNegativeInfinity, kNegativeInfinity}, total[2] = {0, 0};

  /// Scores become weights, 2^(scale * (score - the row's largest)), two in a word: weights[j] are those of product j in both
  /// rows. What was summed before, if anything, is brought to the same base. Scale is positive. Totals are a lane's own.
  template <bool kBf16, int kTiles>
  SINTER_DEVICE_INLINE void exponentiate(const float (&scores)[kTiles][4], float scale, bool anything_before,
                                         uint32_t (&weights)[kTiles][2]) {
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      // Two at a time, because each waits for the one before.
      float even = largest[half], odd = largest[half];
      SINTER_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        even = larger(even, scores[j][half * 2]);
        odd = larger(odd, scores[j][half * 2 + 1]);
      }
      float most_of_row = larger(even, odd);
      // Four lanes share a row.
      most_of_row = larger(most_of_row, shuffle_xor(most_of_row, 1));
      most_of_row = larger(most_of_row, shuffle_xor(most_of_row, 2));
      // A row that has seen no key yet has no distance: infinity minus infinity is no number.
      const float base = most_of_row == kNegativeInfinity ? 0.f : most_of_row * scale;
      if (anything_before) {
        const float correction = exp2_fast(largest[half] * scale - base);
        total[half] *= correction;
        SINTER_UNROLL
        for (int d = 0; d < kD / 8; ++d) {
          sums[d][half * 2] *= correction;
          sums[d][half * 2 + 1] *= correction;
        }
      }
      largest[half] = most_of_row;
      even = odd = 0;
      SINTER_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        const float low = exp2_fast(scores[j][half * 2] * scale - base), high = exp2_fast(scores[j][half * 2 + 1] * scale - base);
        even += low;
        odd += high;
        weights[j][half] = pair_of<kBf16>(low, high);
      }
      total[half] += even + odd;
    }
  }

  /// Over the lanes of a row: what its sums are multiplied by in the end. No key at all gives zeros; NaN stays.
  SINTER_DEVICE_INLINE float share(int half) const {
    float all = total[half];
    all += shuffle_xor(all, 1);
    all += shuffle_xor(all, 2);
    return all == 0.f ? 0.f : reciprocal_fast(all);
  }
};

/// Adds weighted values, which lie in shared memory, rows kPitch apart.
template <bool kBf16, int kPitch, int kTiles, int kD>
SINTER_DEVICE_INLINE void add_values(const uint16_t* values, const uint32_t (&weights)[kTiles][2], Gathered<kD>& gathered) {
  const int lane = thread_x() % 32;
  SINTER_UNROLL
  for (int j = 0; j < kTiles / 2; ++j) {
    // Two products' results side by side are the left matrix of the next product.
    const uint32_t rows[4] = {weights[2 * j][0], weights[2 * j][1], weights[2 * j + 1][0], weights[2 * j + 1][1]};
    SINTER_UNROLL
    for (int d = 0; d < kD / 16; ++d) {
      uint32_t columns[4];
      load_matrices_transposed(columns, values + (j * 16 + lane / 8 % 2 * 8 + lane % 8) * kPitch + d * 16 + lane / 16 * 8);
      multiply<kBf16>(gathered.sums[2 * d], rows, columns[0], columns[1]);
      multiply<kBf16>(gathered.sums[2 * d + 1], rows, columns[2], columns[3]);
    }
  }
}

}  // namespace sinter::device
