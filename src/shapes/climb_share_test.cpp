#include "shapes/climb_share.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <new>

#include "base/thread_pool.h"
#include "shapes/random.h"

namespace sinter::shapes {
namespace {

/// A climb whose outcome depends on every step before: what helps is a matter of the random numbers and of the change so far.
/// Few values, so that many climbers are equal but for their streams.
void climb_one(Climber& c, int share_that_helps) {
  Random random(1, uint32_t(c.change), c.stream, c.step++);
  if (random.below(1000) >= uint32_t(share_that_helps)) return;
  c.change = (c.change + random.between(-9, 9)) % 20, ++c.taken;
  if (c.change < c.best_change) c.best_change = c.change, c.best.width = int32_t(c.step);
}

/// Some climbers are slower than others, so that they come to the ends of their rounds at all times.
void wait(int loops) {
  for (volatile int i = 0; i < loops;) i = i + 1;
}

Climber expected_best(const std::vector<Round>& rounds, int candidates, uint32_t stream, int helps) {
  std::vector<Climber> climbers(size_t(rounds.front().climbers));
  for (Climber& c : climbers) {
    c.stream = stream++;
    for (int i = 0; i < candidates; ++i) climb_one(c, helps);
  }
  for (const Round& round : rounds) {
    climbers.resize(size_t(round.climbers));
    for (Climber& c : climbers) {
      begin_round(c, round);
      for (int i = 0; i < round.tries; ++i) climb_one(c, helps);
      end_round(c, round);
    }
    std::sort(climbers.begin(), climbers.end(), before);
  }
  return climbers.front();
}

}  // namespace

TEST_CASE("a search that is shared out ends where it ends on one thread, however often something helps and whoever is slow") {
  const std::vector<std::vector<Round>> searches = {{{1, 1}},
                                                    {{1, 240}},
                                                    {{4, 60, true}},
                                                    {{9, 7}, {4, 7}},
                                                    {{5, 1}, {4, 30}, {3, 1, true}, {1, 50, true}},
                                                    {{32, 8}, {16, 16}, {8, 32}, {4, 64}}};
  ThreadPool pool(4);
  for (const auto& rounds : searches)
    for (int helps : {0, 5, 50, 500, 1000}) {
      const int candidates = helps == 5 ? 6 : 1;
      ClimbShare share(rounds, candidates, pool.threads());
      for (uint32_t stream : {0u, 1u << 16}) {  // used twice, as a run does
        share.begin(stream);
        pool.parallel_for(pool.threads(), 1, [&](int64_t, int64_t, int worker) {
          share.work([&](Climber& c, const ClimbShare::Work& work) {
            if (work.candidates != 0 && c.step != 0) return;  // it has begun: a result that is wrong
            for (int i = 0; i < work.candidates + work.tries; ++i) {
              wait(40 * worker + 100 * int(c.stream % 5));
              if (work.version != work.wanted) return;
              climb_one(c, helps);
              if (i + 1 == work.candidates) begin_round(c, work.round);
            }
          });
        });
        const Climber expected = expected_best(rounds, candidates, stream, helps);
        CHECK(share.best().stream == expected.stream);
        CHECK(share.best().change == expected.change);
        CHECK(share.best().step == expected.step);
        CHECK(share.best().taken == expected.taken);
        CHECK(share.best().shape == expected.shape);
      }
    }
}

TEST_CASE("threads do not wait for one that threw") {
  ThreadPool pool(4);
  ClimbShare share({{8, 20}, {4, 40}}, 1, pool.threads());
  std::atomic<int> climbs{0};
  auto work = [&](int throws_at) {
    share.begin(0);
    pool.parallel_for(pool.threads(), 1, [&](int64_t, int64_t, int) {
      share.work([&](Climber& c, const ClimbShare::Work& work) {
        if (++climbs == throws_at) throw std::bad_alloc();
        for (int i = 0; i < work.candidates + work.tries && work.version == work.wanted; ++i) climb_one(c, 50);
      });
    });
  };
  CHECK_THROWS_AS(work(5), std::bad_alloc);
  work(0);  // the next search is whole again
  CHECK(share.best().step == 61);
}

}  // namespace sinter::shapes
