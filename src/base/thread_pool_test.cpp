#include "base/thread_pool.h"

#include <doctest/doctest.h>

#include <chrono>
#include <stdexcept>

namespace sinter {
namespace {

TEST_CASE("every index is visited once, whatever the threads, pieces and pauses between jobs") {
  for (int threads : {1, 2, 4, 16}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 2000; ++round) {
      const int64_t count = round % 97, grain = 1 + round % 5;
      std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
      std::vector<std::atomic<int>> busy(static_cast<size_t>(threads));
      std::atomic<int> clashes{0};
      pool.parallel_for(count, grain, [&](int64_t begin, int64_t end, int worker) {
        clashes += busy[size_t(worker)]++ != 0 || end - begin > grain;
        for (int64_t i = begin; i < end; ++i) ++visits[size_t(i)];
        --busy[size_t(worker)];
      });
      int wrong = 0;
      for (auto& n : visits) wrong += n != 1;
      REQUIRE(wrong == 0);
      REQUIRE(clashes == 0);
      if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));  // long enough to fall asleep
    }
  }
}

TEST_CASE("the first exception of a piece reaches the caller, and the pool works on") {
  ThreadPool pool(4);
  for (int round = 0; round < 200; ++round) {
    std::atomic<int64_t> done{0};
    CHECK_THROWS_WITH(pool.parallel_for(1000, 1,
                                        [&](int64_t i, int64_t, int) {
                                          ++done;
                                          if (i == 3) throw std::runtime_error("piece 3");
                                        }),
                      "piece 3");
    CHECK(done >= 4);
    std::atomic<int64_t> sum{0};
    pool.parallel_for(100, 7, [&](int64_t begin, int64_t end, int) { sum += end - begin; });
    CHECK(sum == 100);
  }
}

}  // namespace
}  // namespace sinter
