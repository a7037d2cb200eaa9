#pragma once
#include <cmath>
#include <vector>

namespace sinter {

/// `count` floats from `first` to `last`, evenly spaced; the upper half is counted down from `last`, so that both ends are exact.
/// Fused multiply-add, as PyTorch's linspace rounds.
inline std::vector<float> even_spacing(float first, float last, int count) {
  std::vector<float> values(size_t(count), first);
  float step = count > 1 ? (last - first) / float(count - 1) : 0;
  for (int i = 0; i < count; ++i)
    if (count > 1)
      values[size_t(i)] = i < count / 2 ? std::fma(step, float(i), first) : std::fma(-step, float(count - 1 - i), last);
  return values;
}

/// Whether a noise level counts as none: a table that starts there already ends a schedule without another 0.
inline bool nearly_no_noise(float sigma) { return std::abs(sigma) <= 1e-5f; }

}  // namespace sinter
