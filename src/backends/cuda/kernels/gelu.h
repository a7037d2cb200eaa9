#pragma once
#include "backends/cuda/kernels/device.h"

namespace sinter::device {

/// x * sigmoid(2 u) is 0.5 x (1 + tanh(u)).
SINTER_DEVICE_INLINE float gelu_tanh(float x) {
  const float u = 0.7978845608f * (x + 0.044715f * x * x * x);
  return x * reciprocal_fast(1.f + exp2_fast(-2.8853900818f * u));  // 2 / ln 2
}

/// 0.5 x (1 + erf(x / sqrt 2)). erfc is formula 7.1.26 of Abramowitz and Stegun, a polynomial times exp(-x^2 / 2), with an error
/// of 1.5e-7; through it rather than erf, since 1 + erf loses all digits where x is far below 0.
SINTER_DEVICE_INLINE float gelu_erf(float x) {
  const float z = __builtin_fabsf(x) * 0.70710678f;
  const float t = reciprocal_fast(1.f + 0.3275911f * z);
  const float p = t * (0.254829592f + t * (-0.284496736f + t * (1.421413741f + t * (-1.453152027f + t * 1.061405429f))));
  const float half_tail = 0.5f * x * p * exp2_fast(-1.4426950409f * z * z);
  return x > 0.f ? x - half_tail : half_tail;
}

}  // namespace sinter::device
