#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "shapes/search_job.h"

namespace sinter::shapes {

/// Shares a round of climbing among threads. A climber's changes are tried one after the other, each on what the one before left;
/// but hardly any of them helps. So threads that would have nothing to do go ahead of a climber's thread as if it were to find
/// nothing; what they did counts where that came true, and is done again where not. The result is that of one thread.
class ClimbShare {
 public:
  /// What of a climber is to be done: where it has yet to begin, so many random shapes, then so many changes, of which those that
  /// help are kept. Once `version` is another than wanted, the result is of no use.
  struct Work {
    int candidates = 0;
    int first = 0, tries = 0;  ///< the changes' number in the round, how many
    const std::atomic<uint32_t>& version;
    uint32_t wanted = 0;
  };
  using Climb = std::function<void(Climber& climber, const Work& work)>;

  /// All climbers try `tries` changes; they begin with so many `candidates` first, or have begun (0). The dearest to score should
  /// come first.
  ClimbShare(const std::vector<Climber*>& climbers, int candidates, int tries, int threads);
  /// Works until all is done, or until the others need no help. To be called by any number of threads, each with its own `climb`.
  void work(const Climb& climb);

 private:
  /// Tries begin..end of a climber, from what it was when `begin` tries were over if none of those in flight helps. Random shapes
  /// count as tries before 0, all in one part.
  struct Part {
    size_t of = 0;
    int begin = 0, end = 0;
    uint32_t version = 0;
    Climber climber;
    bool helped = false;
  };
  struct Course {
    Climber* climber = nullptr;    ///< after `done` tries
    int done = 0, handed_out = 0;  ///< tries
    std::vector<Part> ahead;       ///< finished, but not yet known to count
  };
  /// Whole courses, while all threads have plenty of them: nobody waits for anybody.
  void work_alone(const Climb& climb);
  size_t next_course();
  bool take(Part& part);
  void finish(const Part& part);
  void settle(Course& course, const Part& part);

  /// Held for a tenth of a microsecond, so nobody sleeps for it.
  class Lock {
   public:
    void lock();
    void unlock() { held_.store(false, std::memory_order_release); }

   private:
    std::atomic<bool> held_{false};
  };

  Lock mutex_;
  std::vector<Course> courses_;
  std::vector<std::atomic<uint32_t>> versions_;  // of each course: how often something helped
  int candidates_, tries_, threads_;
  size_t whole_;  // courses before this one are nobody else's once they are begun
  std::atomic<size_t> next_whole_{0};
  int64_t left_;                      // tries of the others that nobody has been given
  size_t fresh_;                      // from here on nobody has begun a course
  std::vector<size_t> begun_;         // of the shared courses, those that are begun and not done
  std::atomic<uint32_t> changes_{0};  // counts what may give idle threads something to do
};

}  // namespace sinter::shapes
