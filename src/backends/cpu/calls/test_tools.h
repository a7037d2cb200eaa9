#pragma once
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "backends/cpu/calls/pack.h"
#include "backends/cpu/host.h"
#include "backends/cpu/microkernels.h"

namespace sinter::calls_test {

/// Every level that this machine runs; compiled once a process.
inline const std::vector<Microkernels>& all_kernels() {
  static const std::vector<Microkernels> all = [] {
    static std::vector<std::unique_ptr<ObjectCode>> objects;
    std::vector<Microkernels> out;
    for (const char* level : {"avx2", "avx512"}) {
      if (std::string(level) == "avx512" && !host_cpu().level_avx512()) {
        MESSAGE("skipped: avx512 kernels, this CPU has no AVX-512");
        continue;
      }
      CpuTarget target = cpu_target(level, host_cpu());
      objects.push_back(std::make_unique<ObjectCode>(code_generator().microkernels(target)));
      out.push_back(load_microkernels(*objects.back(), target, host_cpu()));
    }
    return out;
  }();
  return all;
}

inline std::mt19937& random_bits() {
  static std::mt19937 bits(20);
  return bits;
}
inline int64_t pick(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_bits()); }
inline std::vector<float> normal(int64_t count) {
  std::normal_distribution<float> d;
  std::vector<float> out(static_cast<size_t>(count));
  for (float& x : out) x = d(random_bits());
  return out;
}

/// Values stored in a type, and what they are after that rounding.
struct Stored {
  std::vector<char> bytes;
  std::vector<float> values;
  DType type;
  Stored(const std::vector<float>& v, DType t, int64_t misalign = 0)
      : bytes(v.size() * 4 + 16), values(v.size()), type(t), at(misalign) {
    convert(v.data(), DType::f32, bytes.data() + at, t, int64_t(v.size()));
    convert(bytes.data() + at, t, values.data(), DType::f32, int64_t(v.size()));
  }
  const void* data() const { return bytes.data() + at; }
  int64_t at;
};

/// A 64-byte aligned buffer with guard bytes behind it, that must still be there at the end.
class Buffer {
 public:
  explicit Buffer(int64_t bytes)
      : bytes_(bytes), memory_(static_cast<char*>(std::aligned_alloc(64, size_t(round_up(bytes + 64, 64))))) {
    std::memset(memory_, 0xff, size_t(bytes + 64));  // NaN: scratch memory that is read before it is written shows
  }
  ~Buffer() { std::free(memory_); }
  Buffer(const Buffer&) = delete;
  char* get() const { return memory_; }
  bool guard_intact() const {
    for (int i = 0; i < 64; ++i)
      if (uint8_t(memory_[bytes_ + i]) != 0xff) return false;
    return true;
  }

 private:
  int64_t bytes_;
  char* memory_;
};

inline float rounded_to_bf16(float x) { return bf16_to_f32(f32_to_bf16(x)); }

/// Largest error in units of the largest value a result can have: sum of |terms|.
struct ErrorMeter {
  double worst = 0;
  void add(double got, double expected, double scale) {
    double error = std::abs(got - expected) / std::max(scale, 1e-30);
    worst = std::isnan(got) ? 1e9 : std::max(worst, error);
  }
};

}  // namespace sinter::calls_test
