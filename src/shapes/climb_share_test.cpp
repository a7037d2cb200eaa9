#include "shapes/climb_share.h"

#include <doctest/doctest.h>

#include "base/thread_pool.h"
#include "shapes/random.h"

namespace sinter::shapes {
namespace {

/// A climb whose outcome depends on every step before: what helps is a matter of the random numbers and of the change so far.
void climb_one(Climber& c, int share_that_helps) {
  Random random(1, uint32_t(c.change), c.stream, c.step++);
  if (random.below(1000) < uint32_t(share_that_helps)) c.change += random.between(-9, 9), ++c.taken;
}

std::vector<Climber> beginners(size_t count) {
  std::vector<Climber> climbers(count);
  for (size_t i = 0; i < count; ++i) climbers[i].stream = uint32_t(i);
  return climbers;
}

}  // namespace

TEST_CASE("climbs that are shared out end where they end on one thread, however often something helps") {
  for (int helps : {0, 5, 50, 500, 1000})
    for (size_t count : {1, 2, 4, 9})
      for (int tries : {1, 7, 240}) {
        std::vector<Climber> expected = beginners(count), seen = beginners(count);
        // Beginning is a sequence too.
        const int candidates = helps == 5 ? 6 : 0;
        for (Climber& c : expected)
          for (int i = 0; i < candidates + tries; ++i) climb_one(c, helps);
        std::vector<Climber*> pointers;
        for (Climber& c : seen) pointers.push_back(&c);
        ThreadPool pool(4);
        ClimbShare share(pointers, candidates, tries, pool.threads());
        pool.parallel_for(pool.threads(), 1, [&](int64_t, int64_t, int worker) {
          share.work([&](Climber& c, const ClimbShare::Work& work) {
            if (work.candidates != 0 && c.step != 0) return;  // it has begun: a result that is wrong
            for (int i = 0; i < work.candidates + work.tries; ++i) {
              for (volatile int wait = 0; wait < 40 * worker;) wait = wait + 1;  // workers of unlike speed
              if (work.version != work.wanted) return;
              climb_one(c, helps);
            }
          });
        });
        for (size_t i = 0; i < count; ++i) {
          CHECK(seen[i].change == expected[i].change);
          CHECK(seen[i].step == expected[i].step);
        }
      }
}

}  // namespace sinter::shapes
