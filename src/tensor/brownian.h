#pragma once
#include <cstdint>
#include <vector>

#include "tensor/tensor.h"

namespace sinter {

/// NumPy's SeedSequence: hashes entropy and a path in a tree of seeds to `count` 32-bit words. `pool_size` is the size of the
/// internal state in words.
std::vector<uint32_t> seed_sequence(uint64_t entropy, const std::vector<uint64_t>& spawn_key, size_t pool_size, size_t count);

/// One path of a Brownian motion, a tensor at each time in [start, end], that can be asked in any order: the same seed gives the
/// same path whatever the questions. Agrees with torchsde's BrownianTree (tolerance 1e-6, pool of 24 words, binary tree).
class BrownianTree {
 public:
  BrownianTree(std::vector<int64_t> shape, double start, double end, uint64_t seed);

  /// The path at `to` minus the path at `from`, both moved into [start, end]; from > to gives the negative. Nothing is kept
  /// between calls: a call draws about two tensors for each halving down to 1e-6, some fifty in all.
  Tensor increment(double from, double to) const;

 private:
  struct Interval;
  void collect(const Interval& interval, const Tensor& increment, double from, double to, Tensor& sum) const;

  std::vector<int64_t> shape_;
  double start_, end_;
  uint64_t seed_;
  Tensor whole_;  ///< the increment from start to end
};

/// Standard normal noise for a step between two sigmas: the increment of a Brownian motion in sigma divided by the square root of
/// the distance, so that schedules with other steps see the same underlying path.
class BrownianNoise {
 public:
  BrownianNoise(std::vector<int64_t> shape, float sigma_min, float sigma_max, uint64_t seed);
  Tensor operator()(float sigma, float sigma_next) const;

 private:
  BrownianTree tree_;
};

}  // namespace sinter
