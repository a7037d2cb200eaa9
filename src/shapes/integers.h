#pragma once
#include <stdint.h>

// Whole-number mathematics for every device: nothing rounds differently anywhere.

namespace sinter::shapes {

template <class T>
constexpr T smaller(T a, T b) {
  return b < a ? b : a;
}
template <class T>
constexpr T larger(T a, T b) {
  return a < b ? b : a;
}
template <class T>
constexpr T clamped(T value, T low, T high) {
  return value < low ? low : high < value ? high : value;
}

namespace detail {

template <class T>
constexpr T floor_div_of(T a, T b) {
  T quotient = a / b;
  return quotient - (a - quotient * b < 0);
}

/// floor_div() where dividing 64 bits is a long subroutine, as on GPUs: most numbers are smaller.
constexpr int64_t floor_div_by_size(int64_t a, int64_t b) {
  if (int32_t(a) == a && int32_t(b) == b) return floor_div_of(int32_t(a), int32_t(b));
  return floor_div_of(a, b);
}

}  // namespace detail

/// a / b rounded down, for b > 0.
constexpr int64_t floor_div(int64_t a, int64_t b) {
#if defined(__NVPTX__)
  return detail::floor_div_by_size(a, b);
#else
  return detail::floor_div_of(a, b);
#endif
}
/// a / b rounded up, for b > 0.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }
/// a / b rounded to the nearest, halves up, for b > 0.
constexpr int64_t round_div(int64_t a, int64_t b) { return floor_div(2 * a + b, 2 * b); }

/// square_root() for n > 0 where doubles are slow: an estimate in single precision, one step of Newton's, and a check in
/// integers.
inline int64_t square_root_by_float(int64_t n) {
  const float estimate = __builtin_sqrtf(float(n));  // off by 2^-23 of it, so 2^8 at most
  auto root = int64_t(estimate);
  if (n >= int64_t(1) << 22) root += int64_t(float(n - root * root) * 0.5f / estimate);
  while (root * root > n) --root;
  while ((root + 1) * (root + 1) <= n) ++root;
  return root;
}

/// The largest integer whose square is at most n, for n < 2^62.
constexpr int64_t square_root(int64_t n) {
  if (n <= 0) return 0;
#if defined(__NVPTX__)
  if (!__builtin_is_constant_evaluated()) return square_root_by_float(n);
#else
  if (!__builtin_is_constant_evaluated()) {
    auto root = int64_t(__builtin_sqrt(double(n)));
    // Below 2^52 the rounded root is never the next whole number; above, it may be one off.
    if (n < int64_t(1) << 52) return root;
    while (root * root > n) --root;
    while ((root + 1) * (root + 1) <= n) ++root;
    return root;
  }
#endif
  uint64_t root = 0, rest = uint64_t(n), bit = uint64_t(1) << 60;
  while (bit > rest) bit >>= 2;
  for (; bit != 0; bit >>= 2) {
    if (rest >= root + bit) {
      rest -= root + bit;
      root = (root >> 1) + bit;
    } else {
      root >>= 1;
    }
  }
  return int64_t(root);
}

/// Sine and cosine are in 1/2^30.
constexpr int kSineBits = 30;

/// sin of an angle in 1/65536 turn, at most 2^-28 off: the odd polynomial of degree 13 on the first quarter, in integers.
constexpr int64_t sine(uint32_t angle) {
  angle &= 65535;
  uint32_t quarter = angle >> 14;
  int64_t t = angle & 16383;
  if (quarter & 1) t = 16384 - t;
  // x = t / 16384 in 1/2^30; sin(x pi/2) = x (c1 - x^2 (c3 - x^2 (c5 - ...))), Taylor's coefficients times (pi/2)^k in 1/2^30
  constexpr int64_t kOne = 1686629713, kThree = 693598668, kFive = 85569306, kSeven = 5026995, kNine = 172272, kEleven = 3864,
                    kThirteen = 61;
  int64_t x = t << 16, square = x * x >> 30;
  int64_t sum = kEleven - (square * kThirteen >> 30);
  sum = kNine - (square * sum >> 30);
  sum = kSeven - (square * sum >> 30);
  sum = kFive - (square * sum >> 30);
  sum = kThree - (square * sum >> 30);
  sum = kOne - (square * sum >> 30);
  sum = smaller<int64_t>(x * sum >> 30, int64_t(1) << kSineBits);
  return quarter & 2 ? -sum : sum;
}
constexpr int64_t cosine(uint32_t angle) { return sine(angle + 16384); }

}  // namespace sinter::shapes
