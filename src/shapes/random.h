#pragma once
#include <stdint.h>

namespace sinter::shapes {

/// Random numbers by counting: the numbers of (seed, stream, step) are a function of these alone, so that any thread of any
/// device can make them. Philox 4x32 with 7 rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
class Random {
 public:
  /// `shape`: number of the shape that is searched; `stream`: who draws; `step`: what for.
  constexpr Random(uint64_t seed, uint32_t shape, uint32_t stream, uint32_t step)
      : seed_(seed), words_{}, counter_{0, step, stream, shape} {}

  constexpr uint32_t next() {
    if (left_ == 0) refill();
    --left_;
    // Moved along instead of indexed: on GPUs an index would put them into memory.
    const uint32_t word = words_[3];
    words_[3] = words_[2], words_[2] = words_[1], words_[1] = words_[0];
    return word;
  }
  /// 0 to count - 1, each as likely but for 2^-32 of `count`.
  constexpr uint32_t below(uint32_t count) { return uint32_t(uint64_t(next()) * count >> 32); }
  /// low to high, both included.
  constexpr int32_t between(int32_t low, int32_t high) { return low + int32_t(below(uint32_t(high - low) + 1)); }

 private:
  constexpr void refill() {
    uint32_t k0 = uint32_t(seed_), k1 = uint32_t(seed_ >> 32);
    uint32_t a = counter_[0]++, b = counter_[1], c = counter_[2], d = counter_[3];
    for (int round = 0; round < 7; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      uint64_t first = uint64_t(0xD2511F53u) * a, second = uint64_t(0xCD9E8D57u) * c;
      a = uint32_t(second >> 32) ^ b ^ k0;
      b = uint32_t(second);
      c = uint32_t(first >> 32) ^ d ^ k1;
      d = uint32_t(first);
    }
    words_[0] = a, words_[1] = b, words_[2] = c, words_[3] = d;
    left_ = 4;
  }
  uint64_t seed_;
  uint32_t words_[4];
  uint32_t counter_[4];
  int left_ = 0;
};

}  // namespace sinter::shapes
