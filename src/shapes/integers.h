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

/// For functions of numbers that must stay in registers, as on GPUs.
#define SINTER_ALWAYS_INLINE __attribute__((always_inline)) inline
#if defined(__NVPTX__)
#define SINTER_UNROLL_LOOP _Pragma("unroll")
#define SINTER_INLINE_ON_GPU __attribute__((always_inline))
#else
#define SINTER_UNROLL_LOOP
#define SINTER_INLINE_ON_GPU
#endif

/// 1 / x and the root of x, to 2^-22 of it or so: devices differ. Who uses them looks at what is left.
inline float reciprocal_estimate(float x) {
#if defined(__NVPTX__)
  return __nvvm_rcp_approx_ftz_f(x);
#else
  return 1.0f / x;
#endif
}
inline float square_root_estimate(float x) {
#if defined(__NVPTX__)
  return __nvvm_sqrt_approx_ftz_f(x);
#else
  return __builtin_sqrtf(x);
#endif
}
/// The whole number next to x, below 2^31 in size; any of the two in the middle.
inline int32_t nearest(float x) {
#if defined(__NVPTX__)
  return __nvvm_f2i_rn(x);
#else
  return int32_t(x < 0 ? x - 0.5f : x + 0.5f);
#endif
}

namespace detail {

template <class T>
constexpr T floor_div_of(T a, T b) {
  T quotient = a / b;
  return quotient - (a - quotient * b < 0);
}

/// floor_div() where dividing 64 bits is a long subroutine, as on GPUs: most numbers are smaller, and doubles are quick.
inline int64_t floor_div_by_size(int64_t a, int64_t b) {
  if (int32_t(a) == a && int32_t(b) == b) return floor_div_of(int32_t(a), int32_t(b));
  const double inverse = 1.0 / double(b);
  auto quotient = int64_t(double(a) * inverse);  // off by 2^-51 of it
  quotient += int64_t(double(a - quotient * b) * inverse);
  const int64_t rest = a - quotient * b;  // off by one at most
  return quotient + (rest >= b) - (rest < 0);
}

/// bounded_quotient() from an estimate, which is off by one at most: 2^16 is the largest bound.
inline int32_t bounded_quotient_by_float(int64_t a, int64_t b, int32_t low, int32_t high) {
  const float estimate = float(a) * reciprocal_estimate(float(b));
  const auto quotient = int32_t(clamped(estimate, float(low), float(high)));
  const int64_t rest = a - quotient * b;
  return clamped(quotient + (rest >= b) - (rest < 0), low, high);
}

}  // namespace detail

/// a / b rounded down, for b > 0.
constexpr int64_t floor_div(int64_t a, int64_t b) {
#if defined(__NVPTX__)
  if (!__builtin_is_constant_evaluated()) return detail::floor_div_by_size(a, b);
#endif
  return detail::floor_div_of(a, b);
}
/// a / b rounded down, but `low` at least and `high` at most; 0 <= low <= high <= 2^16, b > 0, and b high in 64 bits.
constexpr int32_t bounded_quotient(int64_t a, int64_t b, int32_t low, int32_t high) {
#if defined(__NVPTX__)
  if (!__builtin_is_constant_evaluated()) return detail::bounded_quotient_by_float(a, b, low, high);
#endif
  return int32_t(clamped<int64_t>(a / b, low, high));  // the negative ones do not matter
}
/// a / b rounded up, for b > 0.
constexpr int64_t ceil_div(int64_t a, int64_t b) { return -floor_div(-a, b); }
/// a / b rounded to the nearest, halves up, for b > 0.
constexpr int64_t round_div(int64_t a, int64_t b) { return floor_div(2 * a + b, 2 * b); }

/// square_root() for n > 0 where doubles are slow: an estimate in single precision, one step of Newton's, and a check in
/// integers.
inline int64_t square_root_by_float(int64_t n) {
  const float estimate = square_root_estimate(float(n));  // off by 2^-22 of it, so 2^9 at most
  const auto square = [](int64_t root) { return int64_t(uint64_t(uint32_t(root)) * uint32_t(root)); };
  auto root = int64_t(estimate);
  root += int64_t(float(n - square(root)) * 0.5f * reciprocal_estimate(estimate));
  while (square(root) > n) --root;
  while (square(root + 1) <= n) ++root;
  return root;
}

/// square_root() for 0 <= n < 2^31.
inline int32_t square_root_of_word(int32_t n) {
  const auto root = int32_t(square_root_estimate(float(n)));  // off by one at most
  const int32_t rest = n - root * root;
  return root - (rest < 0) + (rest > 2 * root);
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
  // All numbers are below 2^31, and products of words are quicker than those of 64 bits.
  const auto product = [](int64_t a, int64_t b) { return int64_t(int32_t(a)) * int32_t(b) >> 30; };
  int64_t x = t << 16, square = product(x, x);
  int64_t sum = kEleven - product(square, kThirteen);
  sum = kNine - product(square, sum);
  sum = kSeven - product(square, sum);
  sum = kFive - product(square, sum);
  sum = kThree - product(square, sum);
  sum = kOne - product(square, sum);
  sum = smaller<int64_t>(product(x, sum), int64_t(1) << kSineBits);
  return quarter & 2 ? -sum : sum;
}
constexpr int64_t cosine(uint32_t angle) { return sine(angle + 16384); }

}  // namespace sinter::shapes
