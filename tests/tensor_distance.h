#pragma once
#include <algorithm>
#include <cmath>

#include "tensor/tensor.h"

namespace sinter {

/// The largest difference of two tensors, in units of the largest value expected, but at least of 1; infinity where only one of
/// them has NaN or infinity.
inline double distance(const Tensor& found, const Tensor& expected) {
  if (found.shape() != expected.shape() || found.dtype() != expected.dtype()) return INFINITY;
  Tensor a = found.to(DType::f64), b = expected.to(DType::f64);
  auto* x = reinterpret_cast<const double*>(a.data());
  auto* y = reinterpret_cast<const double*>(b.data());
  double largest = 1, difference = 0;
  for (int64_t i = 0; i < a.count(); ++i) {
    if (std::isfinite(y[i])) largest = std::max(largest, std::abs(y[i]));
    bool same = x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]));
    double d = same ? 0 : std::abs(x[i] - y[i]);
    difference = std::isfinite(d) ? std::max(difference, d) : INFINITY;
  }
  return difference / largest;
}

}  // namespace sinter
