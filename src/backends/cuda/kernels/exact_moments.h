#pragma once
#include <cmath>
#include <cstdint>

namespace sinter::cuda {

struct ExactMoments {
  double mean = 0, inverse = 0;  ///< inverse: 1 / sqrt(variance + epsilon)
};
/// In f64, of `count` values, which `each` gives one by one to what it is called with: the meaning of group norms for tests.
template <class Each>
ExactMoments exact_moments(const Each& each, int64_t count, double epsilon) {
  double mean = 0, squares = 0;
  each([&](double v, auto...) { mean += v; });
  mean /= double(count);
  each([&](double v, auto...) { squares += (v - mean) * (v - mean); });
  return {mean, 1 / std::sqrt(squares / double(count) + epsilon)};
}

}  // namespace sinter::cuda
