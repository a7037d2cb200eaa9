#include "tensor/dtype.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "base/native_clones.h"

namespace sinter {
namespace {

struct Info {
  DType type;
  std::string_view name;
  int bytes;
  bool floating;
};
constexpr Info kInfo[] = {
    {DType::f32, "f32", 4, true},       {DType::f16, "f16", 2, true},       {DType::bf16, "bf16", 2, true},
    {DType::f8e4m3, "f8e4m3", 1, true}, {DType::f8e5m2, "f8e5m2", 1, true}, {DType::f64, "f64", 8, true},
    {DType::i64, "i64", 8, false},      {DType::i32, "i32", 4, false},      {DType::i16, "i16", 2, false},
    {DType::i8, "i8", 1, false},        {DType::u64, "u64", 8, false},      {DType::u32, "u32", 4, false},
    {DType::u16, "u16", 2, false},      {DType::u8, "u8", 1, false},        {DType::boolean, "bool", 1, false},
};
const Info& info(DType type) { return kInfo[int(type)]; }

/// A float with `exponent_bits` and `mantissa_bits` to f32; `ieee`: the top exponent means infinity or NaN.
float small_to_f32(uint32_t bits, int exponent_bits, int mantissa_bits, bool ieee) {
  uint32_t sign = bits >> (exponent_bits + mantissa_bits);
  uint32_t exponent = (bits >> mantissa_bits) & ((1u << exponent_bits) - 1);
  uint32_t mantissa = bits & ((1u << mantissa_bits) - 1);
  int bias = (1 << (exponent_bits - 1)) - 1;
  uint32_t top = (1u << exponent_bits) - 1;
  float value;
  if (ieee && exponent == top)
    value = mantissa ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  else if (!ieee && exponent == top && mantissa == (1u << mantissa_bits) - 1)
    value = std::numeric_limits<float>::quiet_NaN();
  else if (exponent == 0)
    value = std::ldexp(float(mantissa), 1 - bias - mantissa_bits);
  else
    value = std::ldexp(float(mantissa | (1u << mantissa_bits)), int(exponent) - bias - mantissa_bits);
  return sign ? -value : value;
}

/// f32 to a smaller float, to nearest even, by scaling to the grid of the result's exponent.
uint32_t f32_to_small(float value, int exponent_bits, int mantissa_bits, bool ieee) {
  uint32_t sign = std::signbit(value) ? 1u << (exponent_bits + mantissa_bits) : 0;
  uint32_t top = (1u << exponent_bits) - 1, full = (1u << mantissa_bits) - 1;
  uint32_t nan = (top << mantissa_bits) | (ieee ? 1u << (mantissa_bits - 1) : full);
  if (std::isnan(value)) return sign | nan;
  uint32_t infinity = ieee ? top << mantissa_bits : nan;
  if (std::isinf(value)) return sign | infinity;
  if (value == 0) return sign;  // frexp gives 0 no exponent that says how small it is
  int bias = (1 << (exponent_bits - 1)) - 1;
  int exponent;
  std::frexp(value, &exponent);
  exponent = std::max(exponent - 1, 1 - bias);
  // In units of the last place; a carry out of the mantissa moves into the exponent field by itself.
  uint32_t units = uint32_t(std::nearbyint(std::ldexp(std::fabs(value), mantissa_bits - exponent)));
  uint32_t bits = units + (uint32_t(exponent + bias - 1) << mantissa_bits);
  uint32_t limit = ieee ? infinity : nan;
  return sign | std::min(bits, limit);
}

template <class T>
T saturate(double value) {
  if (std::isnan(value)) return 0;
  double low = double(std::numeric_limits<T>::min()), high = double(std::numeric_limits<T>::max());
  if (value <= low) return std::numeric_limits<T>::min();
  if (value >= high) return std::numeric_limits<T>::max();
  return T(value);
}

template <class T>
T load(const void* from, int64_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(from) + i * int64_t(sizeof(T)), sizeof(T));
  return value;
}
template <class T>
void store(void* to, int64_t i, T value) {
  std::memcpy(static_cast<char*>(to) + i * int64_t(sizeof(T)), &value, sizeof(T));
}

double load_as_double(const void* from, DType type, int64_t i) {
  switch (type) {
    case DType::f32:
      return load<float>(from, i);
    case DType::f16:
      return f16_to_f32(load<uint16_t>(from, i));
    case DType::bf16:
      return bf16_to_f32(load<uint16_t>(from, i));
    case DType::f8e4m3:
      return small_to_f32(load<uint8_t>(from, i), 4, 3, false);
    case DType::f8e5m2:
      return small_to_f32(load<uint8_t>(from, i), 5, 2, true);
    case DType::f64:
      return load<double>(from, i);
    case DType::i64:
      return double(load<int64_t>(from, i));
    case DType::i32:
      return load<int32_t>(from, i);
    case DType::i16:
      return load<int16_t>(from, i);
    case DType::i8:
      return load<int8_t>(from, i);
    case DType::u64:
      return double(load<uint64_t>(from, i));
    case DType::u32:
      return load<uint32_t>(from, i);
    case DType::u16:
      return load<uint16_t>(from, i);
    case DType::u8:
      return load<uint8_t>(from, i);
    case DType::boolean:
      return load<uint8_t>(from, i) != 0;
  }
  return 0;
}

void store_double(void* to, DType type, int64_t i, double value) {
  switch (type) {
    case DType::f32:
      return store(to, i, float(value));
    case DType::f16:
      return store(to, i, f32_to_f16(float(value)));
    case DType::bf16:
      return store(to, i, f32_to_bf16(float(value)));
    case DType::f8e4m3:
      return store(to, i, uint8_t(f32_to_small(float(value), 4, 3, false)));
    case DType::f8e5m2:
      return store(to, i, uint8_t(f32_to_small(float(value), 5, 2, true)));
    case DType::f64:
      return store(to, i, value);
    case DType::i64:
      return store(to, i, saturate<int64_t>(value));
    case DType::i32:
      return store(to, i, saturate<int32_t>(value));
    case DType::i16:
      return store(to, i, saturate<int16_t>(value));
    case DType::i8:
      return store(to, i, saturate<int8_t>(value));
    case DType::u64:
      return store(to, i, saturate<uint64_t>(value));
    case DType::u32:
      return store(to, i, saturate<uint32_t>(value));
    case DType::u16:
      return store(to, i, saturate<uint16_t>(value));
    case DType::u8:
      return store(to, i, saturate<uint8_t>(value));
    case DType::boolean:
      return store(to, i, uint8_t(value != 0));
  }
}

}  // namespace

int64_t byte_size(DType type) { return info(type).bytes; }
std::string_view name(DType type) { return info(type).name; }
bool is_float(DType type) { return info(type).floating; }

std::optional<DType> parse_dtype(std::string_view text) {
  for (const Info& i : kInfo)
    if (i.name == text) return i.type;
  return {};
}

namespace {

constexpr int kLanes = 8;
using Halves = uint16_t __attribute__((vector_size(2 * kLanes)));
using Words = uint32_t __attribute__((vector_size(4 * kLanes)));
using Floats = float __attribute__((vector_size(4 * kLanes)));

// Of one number (uint32_t and float) or of several (Words and Floats).
#define SINTER_INLINE __attribute__((always_inline)) inline

template <class Float, class Word>
SINTER_INLINE void widen_f16(const Word& bits, Float& value) {
  const Word sign = (bits & 0x8000u) << 16, rest = bits & 0x7fffu;
  // Multiplying by 2^112 moves the exponent's bias from 15 to 127 and makes subnormals normal.
  const Word magnitude = __builtin_bit_cast(Word, __builtin_bit_cast(Float, rest << 13) * 0x1p112f);
  const Word beyond = 0x7f800000u | (rest & 0x3ffu) << 13;  // infinity and what is no number
  value = __builtin_bit_cast(Float, sign | (rest >= 0x7c00u ? beyond : magnitude));
}

template <class Word, class Float>
SINTER_INLINE void narrow_f16(const Float& value, Word& half) {
  const Word bits = __builtin_bit_cast(Word, value), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
  const Word normal = (rest - 0x38000000u + 0xfffu + (rest >> 13 & 1u)) >> 13;
  // Adding 0.5 puts the rounding at the place of a subnormal's last bit.
  const Word subnormal = __builtin_bit_cast(Word, __builtin_bit_cast(Float, rest) + 0.5f) - 0x3f000000u;
  const Word no_number = 0x7e00u | (rest >> 13 & 0x3ffu), infinity = (rest & 0u) | 0x7c00u;
  const Word finite = rest < 0x38800000u ? subnormal : normal, number = rest >= 0x477ff000u ? infinity : finite;
  half = sign | (rest > 0x7f800000u ? no_number : number);
}

template <class Word, class Float>
SINTER_INLINE void narrow_bf16(const Float& value, Word& half) {
  const Word bits = __builtin_bit_cast(Word, value);
  const Word rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, no_number = bits >> 16 | 0x40u;
  half = (bits & 0x7fffffffu) > 0x7f800000u ? no_number : rounded;
}

/// `one(from, to)` for elements that lie anywhere, as those of a file do.
SINTER_INLINE void widen_each(const void* from, void* to, int64_t count, const auto& one) {
  const auto* halves = static_cast<const char*>(from);
  auto* floats = static_cast<char*>(to);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Halves in;
    std::memcpy(&in, halves + 2 * i, sizeof in);
    Floats out;
    one(__builtin_convertvector(in, Words), out);
    std::memcpy(floats + 4 * i, &out, sizeof out);
  }
  for (; i < count; ++i) {
    float out;
    one(uint32_t(load<uint16_t>(from, i)), out);
    store(to, i, out);
  }
}
SINTER_INLINE void narrow_each(const void* from, void* to, int64_t count, const auto& one) {
  const auto* floats = static_cast<const char*>(from);
  auto* halves = static_cast<char*>(to);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Floats in;
    std::memcpy(&in, floats + 4 * i, sizeof in);
    Words out;
    one(in, out);
    const Halves narrow = __builtin_convertvector(out, Halves);
    std::memcpy(halves + 2 * i, &narrow, sizeof narrow);
  }
  for (; i < count; ++i) {
    uint32_t out;
    one(load<float>(from, i), out);
    store(to, i, uint16_t(out));
  }
}

SINTER_NATIVE_CLONES void f32_from_f16(const void* from, void* to, int64_t count) {
  widen_each(
      from, to, count, [](const auto& in, auto& out) __attribute__((always_inline)) { widen_f16(in, out); });
}
SINTER_NATIVE_CLONES void f32_from_bf16(const void* from, void* to, int64_t count) {
  widen_each(
      from, to, count, [](const auto& in, auto& out) __attribute__((always_inline)) {
        out = __builtin_bit_cast(std::decay_t<decltype(out)>, in << 16);
      });
}
SINTER_NATIVE_CLONES void f16_from_f32(const void* from, void* to, int64_t count) {
  narrow_each(
      from, to, count, [](const auto& in, auto& out) __attribute__((always_inline)) { narrow_f16(in, out); });
}
SINTER_NATIVE_CLONES void bf16_from_f32(const void* from, void* to, int64_t count) {
  narrow_each(
      from, to, count, [](const auto& in, auto& out) __attribute__((always_inline)) { narrow_bf16(in, out); });
}

}  // namespace

float f16_to_f32(uint16_t bits) {
  float value;
  widen_f16(uint32_t(bits), value);
  return value;
}
uint16_t f32_to_f16(float value) {
  uint32_t half;
  narrow_f16(value, half);
  return uint16_t(half);
}
uint16_t f32_to_bf16(float value) {
  uint32_t half;
  narrow_bf16(value, half);
  return uint16_t(half);
}

void convert(const void* from, DType from_type, void* to, DType to_type, int64_t count) {
  if (from_type == to_type) {
    if (count > 0) std::memcpy(to, from, size_t(count * byte_size(from_type)));
    return;
  }
  auto each = [&](auto&& one) {
    for (int64_t i = 0; i < count; ++i) one(i);
  };
  bool to_f32 = to_type == DType::f32, from_f32 = from_type == DType::f32;
  if (to_f32 && from_type == DType::f16) return f32_from_f16(from, to, count);
  if (to_f32 && from_type == DType::bf16) return f32_from_bf16(from, to, count);
  if (from_f32 && to_type == DType::f16) return f16_from_f32(from, to, count);
  if (from_f32 && to_type == DType::bf16) return bf16_from_f32(from, to, count);
  if (!is_float(from_type) && !is_float(to_type) && to_type != DType::boolean) {
    // Through 64-bit integers: a double would lose the low bits of large values.
    return each([&](int64_t i) {
      int64_t value = 0;
      bool negative = from_type == DType::i64 || from_type == DType::i32 || from_type == DType::i16 || from_type == DType::i8;
      std::memcpy(&value, static_cast<const char*>(from) + i * byte_size(from_type), size_t(byte_size(from_type)));
      int shift = 64 - 8 * int(byte_size(from_type));
      value = negative ? value << shift >> shift : value;
      std::memcpy(static_cast<char*>(to) + i * byte_size(to_type), &value, size_t(byte_size(to_type)));
    });
  }
  each([&](int64_t i) { store_double(to, to_type, i, load_as_double(from, from_type, i)); });
}

}  // namespace sinter
