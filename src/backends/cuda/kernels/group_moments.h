#pragma once
#include "backends/cuda/kernels/device.h"
#include "backends/cuda/kernels/element_types.h"

namespace sinter::device {

/// Mean and sum of squared distances from it, of as many elements as the place in the array says.
struct alignas(8) Moments {
  float mean, squares;
};

/// An element of an ElementType; 0 where there are none.
SINTER_DEVICE_INLINE float element_at(uint64_t elements, int type, int64_t at) {
  if (!elements) return 0.f;
  if (type == kF32) return to_float(reinterpret_cast<const F32*>(elements)[at]);
  if (type == kF16) return to_float(reinterpret_cast<const F16*>(elements)[at]);
  return to_float(reinterpret_cast<const Bf16*>(elements)[at]);
}

/// What a thread sums of `kWide` channels, each around its first element.
template <int kWide>
struct ColumnSums {
  float pivot[kWide] = {}, sum[kWide] = {}, square[kWide] = {};

  template <class T>
  SINTER_DEVICE_INLINE void begin_around(const Pack<T, kWide>& first) {
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) pivot[i] = to_float(first.at[i]);
  }
  template <class T>
  SINTER_DEVICE_INLINE void add(const Pack<T, kWide>& elements, bool counts = true) {
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) {
      const float distance = counts ? to_float(elements.at[i]) - pivot[i] : 0.f;
      sum[i] += distance;
      square[i] += distance * distance;
    }
  }

  /// The moments of `pixels` elements of each channel, to which addend(i) was added. Pieces of 1 << piece_log channels are
  /// joined, and their moments are where the pieces begin.
  template <class Addend>
  SINTER_DEVICE_INLINE void finish(float pixels, int piece_log, const Addend& addend, Moments (&out)[kWide]) const {
    const float share = 1.f / pixels;
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) {
      const float offset = sum[i] * share, squares = square[i] - offset * sum[i];
      // NaN stays: the comparison is false for it.
      out[i] = {pivot[i] + offset + addend(i), squares < 0 ? 0 : squares};
    }
    SINTER_UNROLL
    for (int level = 0; level < 3; ++level) {
      if (level >= piece_log) break;
      SINTER_UNROLL
      for (int i = 0; i + (1 << level) < kWide; i += 2 << level) {
        const Moments other = out[i + (1 << level)];
        const float distance = other.mean - out[i].mean;
        out[i].mean += 0.5f * distance;
        out[i].squares += other.squares + distance * distance * (0.5f * float(1 << level) * pixels);
      }
    }
  }
};

/// Stores what finish() gave.
template <int kWide>
SINTER_DEVICE_INLINE void store_pieces(const Moments (&m)[kWide], int piece_log, Moments* to) {
  SINTER_UNROLL
  for (int i = 0; i < kWide; ++i)
    if ((i & ((1 << piece_log) - 1)) == 0) to[i >> piece_log] = m[i];
}

/// Joins the moments from[row * row_stride + piece], each of weight(row) elements, `total` in all: first their mean, then the
/// distances from it. The threads of a team do it together; all teams of a warp take part.
template <class Weight>
SINTER_DEVICE_INLINE Moments joined(const Moments* from, int rows, int row_stride, int pieces, const Weight& weight, float total,
                                    int member, int team) {
  const bool by_rows = pieces < team;
  const int first_row = by_rows ? member : 0, row_step = by_rows ? team : 1;
  const int first_piece = by_rows ? 0 : member, piece_step = by_rows ? 1 : team;
  auto sum_of = [&](const auto& term) {
    float sum = 0;
    for (int row = first_row; row < rows; row += row_step) {
      const float elements = weight(row);
      for (int piece = first_piece; piece < pieces; piece += piece_step) sum += term(from[row * row_stride + piece], elements);
    }
    for (int lanes = team / 2; lanes > 0; lanes /= 2) sum += shuffle_xor(sum, lanes);
    return sum;
  };
  // Around the first, so that the sum keeps the digits of small differences.
  const float pivot = from[0].mean;
  const float offset = sum_of([&](const Moments& m, float elements) { return (m.mean - pivot) * elements; }) / total;
  const float squares = sum_of([&](const Moments& m, float elements) {
    const float distance = m.mean - pivot - offset;
    return m.squares + distance * distance * elements;
  });
  return {pivot + offset, squares};
}

}  // namespace sinter::device
