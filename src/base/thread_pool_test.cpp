#include "base/thread_pool.h"

#include <doctest/doctest.h>

#include <algorithm>
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

TEST_CASE("workers do all of a job in two halves while whoever began it does something else") {
  ThreadPool pool(4);
  for (int round = 0; round < 300; ++round) {
    std::atomic<int64_t> done{0};
    ThreadPool::Job job(pool, 40, 3, [&](int64_t begin, int64_t end, int worker) { done += worker > 0 ? end - begin : 0; });
    for (auto began = std::chrono::steady_clock::now(); done < 40;)
      REQUIRE(std::chrono::steady_clock::now() - began < std::chrono::seconds(60));
    job.finish();
    if (round % 100 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

TEST_CASE("a job in two halves is done once, before what the pool is asked for next and before it goes away") {
  for (int threads : {1, 2, 4, 16}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 2000; ++round) {
      const int64_t count = round % 37, grain = 1 + round % 5;
      std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
      auto visit = [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) ++visits[size_t(i)];
      };
      auto all_visited = [&](int times) { return std::all_of(visits.begin(), visits.end(), [&](int n) { return n == times; }); };
      {
        ThreadPool::Job job(pool, count, grain, visit);
        std::atomic<int> early{0};
        if (round % 3 == 0) pool.parallel_for(1 + round % 50, 1, [&](int64_t, int64_t, int) { early += !all_visited(1); });
        if (round % 4 == 0) ThreadPool::Job(pool, 5, 1, [&](int64_t, int64_t, int) { early += !all_visited(1); }).finish();
        CHECK(early == 0);
        if (round % 2 == 0) job.finish();
      }
      REQUIRE(all_visited(1));
      ThreadPool::Job(pool, count, grain, visit).finish();
      REQUIRE(all_visited(2));
      if (round % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
}

TEST_CASE("the exception of a job in two halves reaches who finishes it, whatever the pool did between, and each time") {
  for (int threads : {1, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 200; ++round) {
      ThreadPool::Job job(pool, 50, 1, [](int64_t i, int64_t, int) {
        if (i == 3) throw std::runtime_error("piece 3");
      });
      std::atomic<int64_t> sum{0};
      auto add = [&](int64_t begin, int64_t end, int) { sum += end - begin; };
      if (round % 2 == 0) pool.parallel_for(100, 7, add);
      for (int i = 0; i < 2; ++i) CHECK_THROWS_WITH(job.finish(), "piece 3");
      if (round % 2 == 1) pool.parallel_for(100, 7, add);
      CHECK(sum == 100);
    }
  }
}

}  // namespace
}  // namespace sinter
