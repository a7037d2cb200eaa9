// Kernels that pass over elements or rows once: casts, random numbers, rows of tables, quantisation, the layout of filters. Types
// are arguments: a branch that all threads take alike costs nothing beside the memory, and there is little code to compile.
#include "backends/cuda/kernels/device.h"
#include "backends/cuda/kernels/element_types.h"
#include "backends/cuda/kernels/gelu.h"
#include "backends/cuda/kernels/row_product_arguments.h"

namespace sinter::device {

constexpr int kWide = 8;  // elements of a thread

SINTER_DEVICE_INLINE int64_t bytes_of(int type) { return type == kF32 ? 4 : type == kE4m3 || type == kE5m2 ? 1 : 2; }

template <class T>
SINTER_DEVICE_INLINE void load_as(const void* from, float (&v)[kWide], int valid) {
  const T* elements = static_cast<const T*>(from);
  if (valid == kWide && uint64_t(from) % alignof(Pack<T, kWide>) == 0) {
    const auto pack = *static_cast<const Pack<T, kWide>*>(from);
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) v[i] = to_float(pack.at[i]);
    return;
  }
  SINTER_UNROLL
  for (int i = 0; i < kWide; ++i) v[i] = i < valid ? to_float(elements[i]) : 0.f;
}

/// Elements beyond `valid` (it may be negative) are zeros.
SINTER_DEVICE_INLINE void load(const void* from, int type, float (&v)[kWide], int valid) {
  switch (type) {
    case kF32:
      return load_as<F32>(from, v, valid);
    case kF16:
      return load_as<F16>(from, v, valid);
    case kBf16:
      return load_as<Bf16>(from, v, valid);
    case kE4m3:
      return load_as<E4m3>(from, v, valid);
    default:
      return load_as<E5m2>(from, v, valid);
  }
}

template <class T>
SINTER_DEVICE_INLINE void store_as(void* to, const float (&v)[kWide], int valid) {
  Pack<T, kWide> pack;
  from_floats(v, pack);
  if (valid == kWide && uint64_t(to) % alignof(Pack<T, kWide>) == 0) {
    *static_cast<Pack<T, kWide>*>(to) = pack;
    return;
  }
  SINTER_UNROLL
  for (int i = 0; i < kWide; ++i)
    if (i < valid) static_cast<T*>(to)[i] = pack.at[i];
}

SINTER_DEVICE_INLINE void store(void* to, int type, const float (&v)[kWide], int valid) {
  switch (type) {
    case kF32:
      return store_as<F32>(to, v, valid);
    case kF16:
      return store_as<F16>(to, v, valid);
    case kBf16:
      return store_as<Bf16>(to, v, valid);
    default:
      return store_as<E4m3>(to, v, valid);
  }
}

SINTER_DEVICE_INLINE int64_t first_element() { return (int64_t(block_x()) * threads_x() + thread_x()) * kWide; }
SINTER_DEVICE_INLINE int valid_of(int64_t left) { return int(least<int64_t>(left, kWide)); }
SINTER_DEVICE_INLINE const char* at(const void* base, int64_t element, int type) {
  return static_cast<const char*>(base) + element * bytes_of(type);
}
SINTER_DEVICE_INLINE char* at(void* base, int64_t element, int type) {
  return static_cast<char*>(base) + element * bytes_of(type);
}

/// to[i] = from[i] * scale * row_scales[i / columns]
SINTER_DEVICE_KERNEL(elements__cast, const void* from, int from_type, void* to, int to_type, int64_t count, float scale,
                     const float* row_scales, int64_t columns) {
  const int64_t first = first_element();
  const int valid = valid_of(count - first);
  if (valid <= 0) return;
  float v[kWide];
  load(at(from, first, from_type), from_type, v, valid);
  if (row_scales) {
    int64_t row = first / columns, column = first % columns;
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) {
      if (i < valid) v[i] *= row_scales[row];
      if (++column == columns) {
        column = 0;
        ++row;
      }
    }
  }
  if (scale != 1.f) {
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) v[i] *= scale;
  }
  store(at(to, first, to_type), to_type, v, valid);
}

/// to[r, c] = from[r, c] * gelu(from[r, columns + c]), rows of `from` being dense; a block makes part of a row, of chunks.
SINTER_DEVICE_KERNEL(elements__gate_rows, const void* from, void* to, int type, int columns, int64_t to_stride) {
  const int column = (block_x() * threads_x() + thread_x()) * kWide;
  if (column >= columns) return;
  const int valid = least(columns - column, kWide);
  const int64_t row = block_y(), first = row * 2 * columns + column;
  float value[kWide], gate[kWide];
  load(at(from, first, type), type, value, valid);
  load(at(from, first + columns, type), type, gate, valid);
  SINTER_UNROLL
  for (int i = 0; i < kWide; ++i) value[i] *= gelu_erf(gate[i]);
  store(at(to, row * to_stride + column, type), type, value, valid);
}

/// to[n, y, x, :] = from[n, y / 2, x / 2, :]: a thread for each chunk of a pixel's channels.
SINTER_DEVICE_KERNEL(elements__double_picture, const void* from, void* to, int type, int64_t count, int h, int w, int c) {
  const int64_t i = int64_t(block_x()) * threads_x() + thread_x();
  if (i >= count) return;
  const int chunks = (c + kWide - 1) / kWide, channel = int(i % chunks) * kWide, valid = least(c - channel, kWide);
  const int64_t pixel = i / chunks, x = pixel % w, y = pixel / w % h, picture = pixel / w / h;
  float v[kWide];
  load(at(from, ((picture * ((h + 1) / 2) + y / 2) * ((w + 1) / 2) + x / 2) * c + channel, type), type, v, valid);
  store(at(to, pixel * c + channel, type), type, v, valid);
}

constexpr int kProductRows = 4;  // of a thread

/// sums[i, j] = sum over k of up[first + i, k] * down[k, column + j], in the order of k and each step rounded once. A row beyond
/// `last` is computed as `last` again rather than read.
template <class T>
SINTER_DEVICE_INLINE void row_products(const T* up, const T* down, int64_t inner, int64_t first, int64_t last, int64_t columns,
                                       int64_t column, int valid, float (&sums)[kProductRows][kWide]) {
  for (int64_t k = 0; k < inner; k += kWide) {
    const int count = valid_of(inner - k);
    float left[kProductRows][kWide], right[kWide];
    SINTER_UNROLL
    for (int i = 0; i < kProductRows; ++i) load_as<T>(up + most<int64_t>(0, least(first + i, last)) * inner + k, left[i], count);
    SINTER_UNROLL
    for (int step = 0; step < kWide; ++step) {
      if (step >= count) break;
      load_as<T>(down + (k + step) * columns + column, right, valid);
      SINTER_UNROLL
      for (int i = 0; i < kProductRows; ++i) {
        SINTER_UNROLL
        for (int j = 0; j < kWide; ++j) sums[i][j] = fused_multiply_add(left[i][step], right[j], sums[i][j]);
      }
    }
  }
}

/// For each product of the table in turn weight[r, c] += factor * (up . down)[r, c], in f32 and rounded once at the end. Lanes of
/// a warp take neighbouring chunks of some rows, the warps of a block the rows below: all of these read the same of `down`.
SINTER_DEVICE_KERNEL(elements__add_products, void* weight, int type, int64_t rows, int64_t columns, const char* table,
                     int products) {
  const int64_t first = (int64_t(block_x()) * (threads_x() / 32) + thread_x() / 32) * kProductRows;
  const int64_t column = (int64_t(block_y()) * 32 + thread_x() % 32) * kWide;
  const int valid = valid_of(columns - column);
  if (valid <= 0 || first >= rows) return;
  float v[kProductRows][kWide];
  SINTER_UNROLL
  for (int i = 0; i < kProductRows; ++i)
    load(at(weight, (first + i) * columns + column, type), type, v[i], first + i < rows ? valid : 0);
  for (int p = 0; p < products; ++p) {
    const RowProductArguments product = reinterpret_cast<const RowProductArguments*>(table)[p];
    if (first >= product.end || first + kProductRows <= product.begin) continue;
    float sums[kProductRows][kWide] = {};
    auto multiply = [&](auto one) SINTER_INLINE_LAMBDA {
      using T = decltype(one);
      row_products(reinterpret_cast<const T*>(table + product.up), reinterpret_cast<const T*>(table + product.down),
                   product.inner, first - product.begin, product.end - product.begin - 1, columns, column, valid, sums);
    };
    if (product.type == kF16)
      multiply(F16());
    else if (product.type == kBf16)
      multiply(Bf16());
    else
      multiply(F32());
    SINTER_UNROLL
    for (int i = 0; i < kProductRows; ++i) {
      if (first + i < product.begin || first + i >= product.end) continue;
      SINTER_UNROLL
      for (int j = 0; j < kWide; ++j) v[i][j] += rounded_product(product.factor, sums[i][j]);
    }
  }
  SINTER_UNROLL
  for (int i = 0; i < kProductRows; ++i)
    if (first + i < rows) store(at(weight, (first + i) * columns + column, type), type, v[i], valid);
}

/// A number's place in the sequence decides it, so any part can be made anywhere (Steele, Lea and Flood 2014, the mixing of
/// SplitMix64 with the constants of Stafford's variant 13).
SINTER_DEVICE_INLINE uint64_t mixed(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

/// to[i] = mean + factor * normal(seed, i), by Box and Muller 1958.
SINTER_DEVICE_KERNEL(elements__normals, void* to, int type, int64_t count, uint64_t seed, float mean, float factor) {
  const int64_t first = first_element();
  const int valid = valid_of(count - first);
  if (valid <= 0) return;
  const uint64_t start = mixed(seed + 0x9e3779b97f4a7c15ull);
  float v[kWide];
  SINTER_UNROLL
  for (int i = 0; i < kWide; i += 2) {
    const uint64_t bits = mixed(start + uint64_t(first + i) * 0x9e3779b97f4a7c15ull);
    const float uniform = (float(uint32_t(bits) >> 8) + 0.5f) * 0x1p-24f;  // never 0 or 1
    // The fast functions are good for angles from -pi to pi; a logarithm near 0 may come out with the wrong sign.
    const float angle = float(uint32_t(bits >> 32) >> 8) * (0x1p-24f * 6.2831853f) - 3.1415927f;
    const float radius = factor * square_root(most(0.f, -1.3862944f * log2_fast(uniform)));  // sqrt(-2 ln u)
    v[i] = mean + radius * cosine_fast(angle);
    v[i + 1] = mean + radius * sine_fast(angle);
  }
  store(at(to, first, type), type, v, valid);
}

/// A block for each row: to[i] = table[indices[i]] as units of memory; rows that the table does not have become bytes 0xff, which
/// is NaN in every type.
template <class Unit>
SINTER_DEVICE_INLINE void gather_rows(const Unit* table, int64_t rows, const int64_t* indices, Unit* to, int units,
                                      int64_t table_stride, int64_t to_stride, Unit none) {
  const int64_t row = indices[block_x()];
  const bool inside = row >= 0 && row < rows;
  Unit* out = to + block_x() * to_stride;
  for (int i = thread_x(); i < units; i += threads_x()) out[i] = inside ? table[row * table_stride + i] : none;
}
SINTER_DEVICE_KERNEL(elements__gather_rows_16, const Words4* table, int64_t rows, const int64_t* indices, Words4* to, int units,
                     int64_t table_stride, int64_t to_stride) {
  const uint32_t ones = 0xffffffff;
  gather_rows<Words4>(table, rows, indices, to, units, table_stride, to_stride, Words4{ones, ones, ones, ones});
}
SINTER_DEVICE_KERNEL(elements__gather_rows_1, const uint8_t* table, int64_t rows, const int64_t* indices, uint8_t* to, int units,
                     int64_t table_stride, int64_t to_stride) {
  gather_rows<uint8_t>(table, rows, indices, to, units, table_stride, to_stride, 0xff);
}

/// The largest of the values of all threads; shared memory: a float for each warp.
SINTER_DEVICE_INLINE float block_max(float value) {
  auto* shared = reinterpret_cast<float*>(shared_memory());
  value = warp_max(value);
  if (thread_x() % 32 == 0) shared[thread_x() / 32] = value;
  barrier();
  float all = shared[0];
  for (int i = 1; i < threads_x() / 32; ++i) all = most(all, shared[i]);
  return all;
}

constexpr float kLargestE4m3 = 448;

/// A block for each row: scales[row] = largest |x| / 448 (1 for a row of zeros) and to = x / scale. `kHeld` vectors of each
/// thread stay in registers, so that x is read once; 0: any number, read twice.
template <int kHeld>
SINTER_DEVICE_INLINE void quantise_rows(const void* x, int type, int64_t x_stride, int columns, uint8_t* to, int64_t to_stride,
                                        float* scales) {
  const int64_t row = block_x();
  const char* from = at(x, row * x_stride, type);
  const int step = threads_x() * kWide;
  float held[kHeld ? kHeld : 1][kWide], largest = 0;
  auto measure = [&](const float(&v)[kWide]) {
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) largest = most(largest, __builtin_fabsf(v[i]));
  };
  if constexpr (kHeld) {
    SINTER_UNROLL
    for (int j = 0; j < kHeld; ++j) {
      const int column = thread_x() * kWide + j * step;
      load(at(from, column, type), type, held[j], valid_of(columns - column));
    }
    SINTER_UNROLL
    for (int j = 0; j < kHeld; ++j) measure(held[j]);
  } else {
    for (int column = thread_x() * kWide; column < columns; column += step) {
      load(at(from, column, type), type, held[0], valid_of(columns - column));
      measure(held[0]);
    }
  }
  largest = block_max(largest);
  const float scale = largest > 0 ? largest / kLargestE4m3 : 1.f, factor = 1 / scale;
  if (thread_x() == 0) scales[row] = scale;
  auto write = [&](float(&v)[kWide], int column) {
    SINTER_UNROLL
    for (int i = 0; i < kWide; ++i) v[i] *= factor;
    const int valid = valid_of(columns - column);
    if (valid > 0) store_as<E4m3>(to + row * to_stride + column, v, valid);
  };
  if constexpr (kHeld) {
    SINTER_UNROLL
    for (int j = 0; j < kHeld; ++j) write(held[j], thread_x() * kWide + j * step);
  } else {
    for (int column = thread_x() * kWide; column < columns; column += step) {
      load(at(from, column, type), type, held[0], valid_of(columns - column));
      write(held[0], column);
    }
  }
}
SINTER_DEVICE_KERNEL(elements__quantise_rows, const void* x, int type, int64_t x_stride, int columns, uint8_t* to,
                     int64_t to_stride, float* scales) {
  quantise_rows<4>(x, type, x_stride, columns, to, to_stride, scales);
}
SINTER_DEVICE_KERNEL(elements__quantise_long_rows, const void* x, int type, int64_t x_stride, int columns, uint8_t* to,
                     int64_t to_stride, float* scales) {
  quantise_rows<0>(x, type, x_stride, columns, to, to_stride, scales);
}

/// Filters [k][c][taps] become [k][taps][c]: a block for some channels of one k. Shared memory: channels * taps floats.
SINTER_DEVICE_KERNEL(elements__filters_channels_last, const void* from, int from_type, void* to, int to_type, int64_t c, int taps,
                     int channels) {
  auto* held = reinterpret_cast<float*>(shared_memory());
  const int64_t k = block_y(), first = int64_t(block_x()) * channels;
  const int count = int(least<int64_t>(channels, c - first));
  float v[kWide];
  for (int i = thread_x(); i < count * taps; i += threads_x()) {
    load(at(from, (k * c + first) * taps + i, from_type), from_type, v, 1);
    held[i] = v[0];
  }
  barrier();
  for (int i = thread_x(); i < count * taps; i += threads_x()) {
    const int tap = i / count, channel = i % count;
    v[0] = held[channel * taps + tap];
    store(at(to, (k * taps + tap) * c + first + channel, to_type), to_type, v, 1);
  }
}

/// Filters [k][c][3][3] become [c][4][4][k]: a thread for each c and k. Tap t of a window lands on pixels 2 - t and 3 - t of
/// four, along both axes.
SINTER_DEVICE_KERNEL(elements__filters_doubled, const void* from, int from_type, void* to, int to_type, int64_t k, int64_t c) {
  const int64_t i = int64_t(block_x()) * threads_x() + thread_x();
  if (i >= k * c) return;
  const int64_t filter = i % k, channel = i / k;
  float taps[9], v[kWide];
  SINTER_UNROLL
  for (int tap = 0; tap < 9; ++tap) {
    load(at(from, (filter * c + channel) * 9 + tap, from_type), from_type, v, 1);
    taps[tap] = v[0];
  }
  SINTER_UNROLL
  for (int place = 0; place < 16; ++place) {
    float sum = 0;
    SINTER_UNROLL
    for (int tap = 0; tap < 9; ++tap) {
      const int row = place / 4 - (2 - tap / 3), column = place % 4 - (2 - tap % 3);
      if (row >= 0 && row <= 1 && column >= 0 && column <= 1) sum += taps[tap];
    }
    v[0] = sum;
    store(at(to, (channel * 16 + place) * k + filter, to_type), to_type, v, 1);
  }
}

/// Filters [c][4][4][k] become [k][3][3][c]. Along each axis the four are taps 2, 1 + 2, 0 + 1 and 0; tap 1 is the mean of both
/// differences that give it.
SINTER_DEVICE_KERNEL(elements__filters_undoubled, const void* from, int from_type, void* to, int to_type, int64_t k, int64_t c) {
  const int64_t i = int64_t(block_x()) * threads_x() + thread_x();
  if (i >= k * c) return;
  const int64_t channel = i % c, filter = i / c;
  float across[4][3], v[kWide];
  SINTER_UNROLL
  for (int row = 0; row < 4; ++row) {
    float sums[4];
    SINTER_UNROLL
    for (int column = 0; column < 4; ++column) {
      load(at(from, (channel * 16 + row * 4 + column) * k + filter, from_type), from_type, v, 1);
      sums[column] = v[0];
    }
    across[row][0] = sums[3], across[row][1] = 0.5f * ((sums[1] - sums[0]) + (sums[2] - sums[3])), across[row][2] = sums[0];
  }
  SINTER_UNROLL
  for (int column = 0; column < 3; ++column) {
    const float middle = 0.5f * ((across[1][column] - across[0][column]) + (across[2][column] - across[3][column]));
    const float taps[3] = {across[3][column], middle, across[0][column]};
    SINTER_UNROLL
    for (int row = 0; row < 3; ++row) {
      v[0] = taps[row];
      store(at(to, ((filter * 3 + row) * 3 + column) * c + channel, to_type), to_type, v, 1);
    }
  }
}

/// Filters [c][4][4][k] become [2][2][k][2][2][c]: row 2 m + odd of the result takes pixel m - 1 + odd + tap, to which it is the
/// pixel 3 - 2 tap - odd of four; columns likewise.
SINTER_DEVICE_KERNEL(elements__filters_of_places, const void* from, int from_type, void* to, int to_type, int64_t k, int64_t c) {
  const int64_t i = int64_t(block_x()) * threads_x() + thread_x();
  if (i >= k * c) return;
  const int64_t channel = i % c, filter = i / c;
  float v[kWide];
  SINTER_UNROLL
  for (int place = 0; place < 16; ++place) {
    const int odd_row = place >> 3, odd_column = place >> 2 & 1, row = place >> 1 & 1, column = place & 1;
    const int tap = (3 - 2 * row - odd_row) * 4 + 3 - 2 * column - odd_column;
    load(at(from, (channel * 16 + tap) * k + filter, from_type), from_type, v, 1);
    store(at(to, (((place >> 2) * k + filter) * 4 + (place & 3)) * c + channel, to_type), to_type, v, 1);
  }
}

}  // namespace sinter::device
