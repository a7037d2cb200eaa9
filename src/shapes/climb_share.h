#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "shapes/search_job.h"

namespace sinter::shapes {

/// So many climbers try so many changes each.
struct Round {
  int climbers = 0, tries = 0;
  bool anneal = false;  ///< see allowed_loss()
};
/// What a climber does before and after the tries of a round. In the first round it begins after its random shapes.
void begin_round(Climber& climber, const Round& round);
void end_round(Climber& climber, const Round& round);

/// Shares the climbs of one search among threads, with the result of one thread: in each round all climbers try their changes,
/// and the best ones (before()) go on to the next.
///
/// Nobody waits for the end of a round: a climber goes on as soon as so few of its round are left that it is among the best
/// whatever they come to. And a climber's changes are tried one after the other, each on what the one before left, but hardly any
/// of them helps: so threads that would have nothing to do go ahead of a climber's thread as if it were to find nothing; what
/// they did counts where that came true, and is done again where not.
class ClimbShare {
 public:
  /// What of a climber is to be done: where it has yet to begin, so many random shapes, then so many changes, of which those that
  /// help are kept. Once `version` is another than wanted, the result is of no use.
  struct Work {
    int candidates = 0;
    const Round& round;
    int first = 0, tries = 0;  ///< the changes' number in the round, how many
    const std::atomic<uint32_t>& version;
    uint32_t wanted = 0;
  };
  using Climb = std::function<void(Climber& climber, const Work& work)>;

  /// Each round has fewer climbers than the one before. They begin with so many `candidates`, at least one.
  ClimbShare(std::vector<Round> rounds, int candidates, int threads);
  /// A new search, whose climbers have the random numbers from this stream on.
  void begin(uint32_t stream);
  /// Works until all is done, or until a `climb` throws. To be called by any number of threads, each with its own `climb`.
  void work(const Climb& climb);
  /// The best climber of the last round, when all is done.
  const Climber& best() const;

 private:
  /// Tries begin..end of a climber's round, from what it was when `begin` tries were over if none of those in flight helps.
  /// Random shapes count as tries before 0, all in one part.
  struct Part {
    uint32_t of = 0;
    int round = 0, begin = 0, end = 0;
    uint32_t version = 0;
    Climber climber;
    bool helped = false;  ///< the climber has another shape than before
  };
  /// What a thread is given at once: courses from the beginning of their round to its end, which are nobody else's, or a part.
  struct Share {
    std::vector<uint32_t> whole;
    int round = 0;  ///< of those
    Part part;
  };
  struct alignas(64) Course {
    Climber climber;
    std::vector<Part> ahead;  ///< finished, but not yet known to count
    /// How often something helped. Threads look at it all the time, so it has a cache line of its own.
    alignas(64) std::atomic<uint32_t> version{0};
  };
  /// A climber that may begin a round.
  struct Ready {
    int round = 0;
    int64_t cost = 0;  ///< of scoring its shape
    uint32_t course = 0;
    /// Whether the other one should begin first: its round is an earlier one, or it takes longer.
    bool operator<(const Ready& other) const { return round != other.round ? round > other.round : cost < other.cost; }
  };
  /// How far a course is whose round has begun. Whoever takes or finishes a part looks at all of these, but at the climbers of
  /// few: memory that another core wrote last is what the lock costs.
  struct Begun {
    uint32_t course = 0;
    int round = 0;
    int done = 0, handed_out = 0;  ///< tries of the round
    int written = 0;               ///< after so many tries the course's climber was as it is there; none helped since
  };
  /// A climber that is through with a round.
  struct Finisher {
    int64_t change = 0;
    uint32_t stream = 0, course = 0;
    bool operator<(const Finisher& other) const { return change != other.change ? change < other.change : stream < other.stream; }
  };

  void work_on(const Climb& climb);
  bool all_done() const { return finishers_.back().size() == size_t(rounds_.back().climbers); }
  void enter(uint32_t course, int round);
  Begun* begun_course();
  bool take(Share& share);
  Ready take_ready();
  bool take_whole(Share& share, int64_t tries);
  void take_part(Part& part, Begun& begun, int64_t tries);
  void climb_all(Share& share, const Climb& climb);
  void finish(const Share& share);
  void finish_part(const Part& part);
  void settle(Begun& begun, const Part& part);
  void finish_round(uint32_t course, int round);
  int first_try(int round) const { return round == 0 ? -candidates_ : 0; }
  int tries(int round) const { return rounds_[size_t(round)].tries; }

  /// Held for a tenth of a microsecond, so nobody sleeps for it.
  class Lock {
   public:
    void lock();
    void unlock() { held_.store(false, std::memory_order_release); }

   private:
    std::atomic<bool> held_{false};
  };

  const std::vector<Round> rounds_;
  const int candidates_, threads_;
  alignas(64) Lock mutex_;
  int64_t left_ = 0;                              // tries of ready and begun courses that nobody has been given
  std::vector<Ready> ready_;                      // a heap
  std::vector<Begun> begun_;                      // courses that have begun their round and not finished it
  std::vector<std::vector<Finisher>> finishers_;  // of each round, the best first
  std::vector<Course> courses_;
  bool abandoned_ = false;                        // something was thrown
  alignas(64) std::atomic<uint32_t> changes_{0};  // counts what may give idle threads something to do
};

}  // namespace sinter::shapes
