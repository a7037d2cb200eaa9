#pragma once
#include <stdint.h>

/// What device code is written with: freestanding C++20 that clang compiles to PTX. With SINTER_DEVICE_EMULATION the same
/// source is compiled for the host, where emulation.h gives the threads of a block; so kernels are tested without a GPU.
/// Arithmetic is f32; bf16, f16 and e4m3 numbers are their bits, converted here.

#ifdef SINTER_DEVICE_EMULATION
#include "backends/cuda/kernels/emulation.h"
#else
#include "backends/cuda/kernels/device_intrinsics.h"
#endif

namespace sinter::device {

using Words4 = uint32_t __attribute__((vector_size(16)));
using Words2 = uint32_t __attribute__((vector_size(8)));

/// Element types in memory.
struct F32 {
  uint32_t bits;
};
struct F16 {
  uint16_t bits;
};
struct Bf16 {
  uint16_t bits;
};
struct E4m3 {
  uint8_t bits;
};
struct E5m2 {
  uint8_t bits;
};

inline float as_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
inline uint32_t as_bits(float value) { return __builtin_bit_cast(uint32_t, value); }
template <class T>
inline T least(T a, T b) {
  return a < b ? a : b;
}
template <class T>
inline T most(T a, T b) {
  return a > b ? a : b;
}
template <class T>
inline T divide_up(T a, T b) {
  return (a + b - 1) / b;
}

inline float to_float(F32 x) { return as_float(x.bits); }
inline float to_float(F16 x) { return f16_bits_to_float(x.bits); }
inline float to_float(Bf16 x) { return as_float(uint32_t(x.bits) << 16); }
/// Bits 0xxxxyyy shifted to where f16 has its exponent and mantissa are the value / 2^8, denormals included.
inline float to_float(E4m3 x) {
  const float value = f16_bits_to_float(uint16_t((x.bits & 0x80) << 8 | (x.bits & 0x7f) << 7)) * 256.f;
  return (x.bits & 0x7f) == 0x7f ? as_float(0x7fffffff) : value;
}

/// The upper half of an f16.
inline float to_float(E5m2 x) { return f16_bits_to_float(uint16_t(x.bits << 8)); }

inline void from_float(float value, F32& to) { to.bits = as_bits(value); }
inline void from_float(float value, F16& to) { to.bits = float_to_f16_bits(value); }
inline void from_float(float value, Bf16& to) { to.bits = uint16_t(floats_to_bf16_pair(value, 0.f)); }

/// Rounds to nearest even; what is beyond 448 becomes 448 (as the hardware's conversion with .satfinite), NaN stays NaN.
inline uint8_t float_to_e4m3_in_software(float value) {
  const uint32_t bits = as_bits(value), sign = bits >> 24 & 0x80;
  const float size = as_float(bits & 0x7fffffff);
  if (!(size == size)) return uint8_t(sign | 0x7f);
  if (size >= 448.f) return uint8_t(sign | 0x7e);
  // Below 2^-6 the spacing is 2^-9: adding 2^14 (spacing 2^-9 in f32) rounds to it.
  if (size < 0x1p-6f) return uint8_t(sign | (as_bits(size + 0x1p14f) - as_bits(0x1p14f)));
  const uint32_t rounded = (bits & 0x7fffffff) + 0x7ffff + (bits >> 20 & 1);
  return uint8_t(sign | ((rounded >> 20) - ((127 - 7) << 3)));
}

inline void from_float(float value, E4m3& to) {
#if !defined(SINTER_DEVICE_EMULATION) && SINTER_DEVICE_ARCH >= 89
  to.bits = uint8_t(floats_to_e4m3_pair(value, 0.f));
#else
  to.bits = float_to_e4m3_in_software(value);
#endif
}

/// N elements next to each other in memory, aligned to their size together where that is at most 16 bytes.
template <class T, int N>
struct alignas(sizeof(T) * N < 16 ? sizeof(T) * N : 16) Pack {
  T at[N];
};

template <class T, int N>
SINTER_DEVICE_INLINE void from_floats(const float (&v)[N], Pack<T, N>& to) {
  SINTER_UNROLL
  for (int i = 0; i < N; ++i) from_float(v[i], to.at[i]);
}
// Conversions make pairs; N is even.
template <int N>
SINTER_DEVICE_INLINE void from_floats(const float (&v)[N], Pack<Bf16, N>& to) {
  SINTER_UNROLL
  for (int i = 0; i < N; i += 2) {
    const uint32_t pair = floats_to_bf16_pair(v[i], v[i + 1]);
    to.at[i].bits = uint16_t(pair);
    to.at[i + 1].bits = uint16_t(pair >> 16);
  }
}
#if !defined(SINTER_DEVICE_EMULATION) && SINTER_DEVICE_ARCH >= 89
template <int N>
SINTER_DEVICE_INLINE void from_floats(const float (&v)[N], Pack<E4m3, N>& to) {
  SINTER_UNROLL
  for (int i = 0; i < N; i += 2) {
    const uint16_t pair = floats_to_e4m3_pair(v[i], v[i + 1]);
    to.at[i].bits = uint8_t(pair);
    to.at[i + 1].bits = uint8_t(pair >> 8);
  }
}
#endif

/// Sum over the 32 lanes of a warp, in every lane.
template <class T>
SINTER_DEVICE_INLINE T warp_sum(T value) {
  SINTER_UNROLL
  for (int lanes = 16; lanes > 0; lanes /= 2) value += shuffle_xor(value, lanes);
  return value;
}
SINTER_DEVICE_INLINE float warp_max(float value) {
  SINTER_UNROLL
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    const float other = shuffle_xor(value, lanes);
    value = other > value ? other : value;
  }
  return value;
}

/// multiply_bf16() or multiply_f16().
template <bool kBf16>
SINTER_DEVICE_INLINE void multiply(float (&c)[4], const uint32_t (&x)[4], uint32_t b0, uint32_t b1) {
  if constexpr (kBf16)
    multiply_bf16(c, x, b0, b1);
  else
    multiply_f16(c, x, b0, b1);
}

/// Two values as a word: the first in the low half.
template <bool kBf16>
SINTER_DEVICE_INLINE uint32_t pair_of(float low, float high) {
  return kBf16 ? floats_to_bf16_pair(low, high) : floats_to_f16_pair(low, high);
}

}  // namespace sinter::device
