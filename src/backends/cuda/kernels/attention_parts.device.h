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

template <bool kBf16>
SINTER_DEVICE_INLINE void multiply(float (&c)[4], const uint32_t (&x)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kBf16)
    multiply_bf16(c, x, b0, b1);
  else
    multiply_f16(c, x, b0, b1);
}

template <bool kBf16>
SINTER_DEVICE_INLINE uint32_t pair_of(float low, float high) {
  return kBf16 ? floats_to_bf16_pair(low, high) : floats_to_f16_pair(low, high);
}

/// What 16 queries have gathered from the keys seen so far.
template <int kD>
struct Gathered {
  float sums[kD / 8][4] = {};  ///< of values, each times 2^(score - largest)
  float largest[2] = {kNegativeInfinity, kNegativeInfinity}, total[2] = {0, 0};

  /// Scores, times log2(e), become 2 to the power of their distance from the row's largest; what was summed before, if
  /// anything, is brought to the same base. Totals are a lane's own.
  template <int kTiles>
  SINTER_DEVICE_INLINE void exponentiate(float (&scores)[kTiles][4], bool anything_before) {
    SINTER_UNROLL
    for (int half = 0; half < 2; ++half) {
      float most_of_row = largest[half];
      SINTER_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        most_of_row = most(most_of_row, scores[j][half * 2]);
        most_of_row = most(most_of_row, scores[j][half * 2 + 1]);
      }
      // Four lanes share a row.
      most_of_row = most(most_of_row, shuffle_xor(most_of_row, 1));
      most_of_row = most(most_of_row, shuffle_xor(most_of_row, 2));
      // A row that has seen no key yet has no distance: infinity minus infinity is no number.
      const float base = most_of_row == kNegativeInfinity ? 0.f : most_of_row;
      if (anything_before) {
        const float correction = exp2_fast(largest[half] - base);
        total[half] *= correction;
        SINTER_UNROLL
        for (int d = 0; d < kD / 8; ++d) {
          sums[d][half * 2] *= correction;
          sums[d][half * 2 + 1] *= correction;
        }
      }
      largest[half] = most_of_row;
      SINTER_UNROLL
      for (int j = 0; j < kTiles; ++j) {
        SINTER_UNROLL
        for (int i = half * 2; i < half * 2 + 2; ++i) {
          scores[j][i] = exp2_fast(scores[j][i] - base);
          total[half] += scores[j][i];
        }
      }
    }
  }

  /// Over the lanes of a row: what its sums are multiplied by in the end. No key at all gives zeros; NaN stays.
  SINTER_DEVICE_INLINE float share(int half) const {
    float all = total[half];
    all += shuffle_xor(all, 1);
    all += shuffle_xor(all, 2);
    return all == 0.f ? 0.f : 1.f / all;
  }
};

/// Adds weighted values to kRows times 16 queries. `values` lie in shared memory, rows kPitch apart.
template <bool kBf16, int kPitch, int kRows, int kTiles, int kD>
SINTER_DEVICE_INLINE void add_values(const uint16_t* values, const float (&weights)[kRows][kTiles][4],
                                     Gathered<kD> (&gathered)[kRows]) {
  const int lane = thread_x() % 32;
  SINTER_UNROLL
  for (int j = 0; j < kTiles / 2; ++j) {
    // Two products' results side by side are the left matrix of the next product.
    uint32_t rows[kRows][4];
    SINTER_UNROLL
    for (int r = 0; r < kRows; ++r) {
      SINTER_UNROLL
      for (int i = 0; i < 4; ++i)
        rows[r][i] = pair_of<kBf16>(weights[r][2 * j + i / 2][i % 2 * 2], weights[r][2 * j + i / 2][i % 2 * 2 + 1]);
    }
    SINTER_UNROLL
    for (int d = 0; d < kD / 16; ++d) {
      uint32_t columns[4];
      load_matrices_transposed(columns, values + (j * 16 + lane / 8 % 2 * 8 + lane % 8) * kPitch + d * 16 + lane / 16 * 8);
      SINTER_UNROLL
      for (int r = 0; r < kRows; ++r) {
        multiply<kBf16>(gathered[r].sums[2 * d], rows[r], columns[0], columns[1]);
        multiply<kBf16>(gathered[r].sums[2 * d + 1], rows[r], columns[2], columns[3]);
      }
    }
  }
}

}  // namespace sinter::device
