#include "tensor/dtype.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace sinter {
namespace {

/// What the bits of an IEEE 754 binary16 stand for.
double value_of_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ff;
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 0x1f) return fraction ? std::numeric_limits<double>::quiet_NaN() : sign * INFINITY;
  return sign * (exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24));
}

float float_of(uint32_t bits) { return __builtin_bit_cast(float, bits); }
uint32_t bits_of(float value) { return __builtin_bit_cast(uint32_t, value); }

/// Numbers around every place where rounding decides, infinities and what is no number among them.
std::vector<float> awkward_floats() {
  std::vector<float> all;
  for (uint32_t high = 0; high < 0x10000; ++high)
    for (uint32_t low : {0x0000u, 0x0001u, 0x0fffu, 0x1000u, 0x1001u, 0x2000u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu})
      all.push_back(float_of(high << 16 | low));
  return all;
}

/// The nearest of two neighbours, the even one where both are as near.
uint16_t rounded(double value, uint16_t below, double lower, double upper) {
  const double to_lower = value - lower, to_upper = upper - value;
  if (to_lower != to_upper) return to_lower < to_upper ? below : uint16_t(below + 1);
  return below % 2 ? uint16_t(below + 1) : below;
}

TEST_CASE("every f16 is widened to its value, one at a time, in rows of any length and from any address") {
  std::vector<uint8_t> bytes(2 * 0x10000 + 1);
  for (uint32_t i = 0; i < 0x10000; ++i) bytes[2 * i + 1] = uint8_t(i), bytes[2 * i + 2] = uint8_t(i >> 8);
  std::vector<float> wide(0x10000);
  for (int64_t count : {int64_t(0x10000), int64_t(0x10000 - 5), int64_t(3)}) {
    std::fill(wide.begin(), wide.end(), -1.f);
    convert(bytes.data() + 1, DType::f16, wide.data(), DType::f32, count);
    size_t wrong = 0;
    for (uint32_t i = 0; i < uint32_t(count); ++i) {
      const double expected = value_of_f16(uint16_t(i));
      wrong += std::isnan(expected) ? !std::isnan(wide[i]) : double(wide[i]) != expected || std::signbit(wide[i]) != (i >> 15);
      wrong += bits_of(wide[i]) != bits_of(f16_to_f32(uint16_t(i)));
    }
    for (size_t i = size_t(count); i < wide.size(); ++i) wrong += wide[i] != -1.f;
    CHECK(wrong == 0);
  }
}

TEST_CASE("f32 is rounded to the nearest f16, ties to even") {
  const std::vector<float> all = awkward_floats();
  std::vector<uint16_t> narrow(all.size());
  convert(all.data(), DType::f32, narrow.data(), DType::f16, int64_t(all.size()));
  size_t wrong = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    const float value = all[i];
    const auto sign = uint16_t(std::signbit(value) ? 0x8000 : 0);
    const double magnitude = std::fabs(double(value));
    wrong += narrow[i] != f32_to_f16(value);
    if (std::isnan(value)) {
      wrong += !std::isnan(value_of_f16(narrow[i]));
    } else if (magnitude >= 65520) {
      wrong += narrow[i] != (sign | 0x7c00);
    } else {
      uint16_t below = 0;  // by halving
      for (uint16_t step = 0x4000; step; step /= 2)
        if (below + step < 0x7c00 && value_of_f16(uint16_t(below + step)) <= magnitude) below = uint16_t(below + step);
      const double upper = below == 0x7bff ? 65536 : value_of_f16(uint16_t(below + 1));
      wrong += narrow[i] != (sign | rounded(magnitude, below, value_of_f16(below), upper));
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("f32 is rounded to the nearest bf16, ties to even, and what is no number stays none") {
  const std::vector<float> all = awkward_floats();
  std::vector<uint16_t> narrow(all.size());
  convert(all.data(), DType::f32, narrow.data(), DType::bf16, int64_t(all.size()));
  std::vector<float> back(all.size());
  convert(narrow.data(), DType::bf16, back.data(), DType::f32, int64_t(all.size()));
  size_t wrong = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    wrong += narrow[i] != f32_to_bf16(all[i]) || bits_of(back[i]) != uint32_t(narrow[i]) << 16;
    if (std::isnan(all[i])) {
      wrong += !std::isnan(back[i]);
      continue;
    }
    const uint32_t low = bits_of(all[i]) & 0xffff, high = bits_of(all[i]) >> 16;
    const bool up = low > 0x8000 || (low == 0x8000 && high % 2);
    wrong += narrow[i] != uint16_t(high + up);
  }
  CHECK(wrong == 0);
}

}  // namespace
}  // namespace sinter
