#pragma once
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>

#include "backends/cpu/calls/panels.h"

// What benchmarks share: clocks and memory.

namespace sinter {

/// Work that runs on one thread may be timed by that thread's own clock, which stops while others have the core.
inline bool& own_clock() {
  static bool own = false;
  return own;
}
inline double now() {
  timespec time{};
  clock_gettime(own_clock() ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return double(time.tv_sec) + double(time.tv_nsec) * 1e-9;
}

/// How much of its time a measurement takes: less where a glance is enough.
inline double& patience() {
  static double share = 1;
  return share;
}

/// The best of at least two runs and at most `budget` seconds.
inline double best_time(const std::function<void()>& body, double budget = 0.4) {
  body();
  double best = 1e30, end = now() + budget * patience();
  for (int i = 0; i < 2 || (i < 200 && now() < end); ++i) {
    double begin = now();
    body();
    best = std::min(best, now() - begin);
  }
  return best;
}

/// Zero-filled memory in large pages where the system gives them.
class Memory {
 public:
  explicit Memory(int64_t bytes) : bytes_(round_up(std::max<int64_t>(bytes, 64), 2 << 20)) {
    data_ = static_cast<char*>(std::aligned_alloc(2 << 20, size_t(bytes_)));
    madvise(data_, size_t(bytes_), MADV_HUGEPAGE);
    std::memset(data_, 0, size_t(bytes_));
  }
  ~Memory() { std::free(data_); }
  Memory(const Memory&) = delete;
  template <class T = float>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  char* data_;
};

inline std::unique_ptr<Memory> random_floats(int64_t count) {
  auto out = std::make_unique<Memory>(count * 4);
  uint32_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525 + 1013904223;
    out->as()[i] = float(int32_t(state)) * 0x1p-31f;
  }
  return out;
}

}  // namespace sinter
