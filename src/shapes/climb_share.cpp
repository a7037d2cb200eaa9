#include "shapes/climb_share.h"

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

namespace sinter::shapes {
namespace {

/// About how long a shape takes to score, in rows.
int64_t cost(const Shape& s) {
  constexpr int64_t kForSetup = 20, kForStrokes = 6;
  const int64_t rows = 2 * extent(s) / kUnitsPerPixel;
  return kForSetup + (is_stroke(s.kind) ? kForStrokes * rows : rows);
}

}  // namespace

void begin_round(Climber& climber, const Round& round) {
  if (round.anneal) climber.best_change = climber.change, climber.best = climber.shape;
}

void end_round(Climber& climber, const Round& round) {
  if (round.anneal) climber.change = climber.best_change, climber.shape = climber.best;
}

void ClimbShare::Lock::lock() {
  constexpr int kPatience = 1000;  // pauses; then the holder may have been descheduled
  while (held_.exchange(true, std::memory_order_acquire))
    for (int i = 0; held_.load(std::memory_order_relaxed);) {
      if (++i < kPatience)
        _mm_pause();
      else
        std::this_thread::yield();
    }
}

ClimbShare::ClimbShare(std::vector<Round> rounds, int candidates, int threads)
    : rounds_(std::move(rounds)),
      candidates_(candidates),
      threads_(threads),
      finishers_(rounds_.size()),
      courses_(size_t(rounds_.front().climbers)) {
  ready_.reserve(courses_.size());
  begun_.reserve(courses_.size());
  for (size_t i = 0; i < rounds_.size(); ++i) finishers_[i].reserve(size_t(rounds_[i].climbers));
}

void ClimbShare::begin(uint32_t stream) {
  ready_.clear(), begun_.clear();
  for (auto& finishers : finishers_) finishers.clear();
  left_ = 0;
  abandoned_ = false;
  for (uint32_t i = 0; i < courses_.size(); ++i) {
    courses_[i].climber = {stream + i};
    courses_[i].ahead.clear();
    enter(i, 0);
  }
}

void ClimbShare::enter(uint32_t course, int round) {
  Climber& climber = courses_[course].climber;
  if (round > 0) begin_round(climber, rounds_[size_t(round)]);
  left_ += tries(round) - first_try(round);
  ready_.push_back({round, round == 0 ? 0 : cost(climber.shape), course});
  std::push_heap(ready_.begin(), ready_.end());
}

/// Of the courses that are begun, the one to hand out a part of: one that waits in the middle before one to go ahead of, an early
/// round before a later one, then where there is most to do. None: null.
ClimbShare::Begun* ClimbShare::begun_course() {
  struct Rank {
    bool ahead;
    int round, left;
    bool operator<(const Rank& o) const { return ahead != o.ahead ? !ahead : round != o.round ? round < o.round : left > o.left; }
  };
  Begun* course = nullptr;
  Rank best{};
  for (Begun& b : begun_) {
    const Rank rank{b.handed_out != b.done, b.round, tries(b.round) - b.handed_out};
    // Nobody can go ahead of who has no shape yet.
    if (rank.left == 0 || (b.done < 0 && rank.ahead) || (course && !(rank < best))) continue;
    best = rank, course = &b;
  }
  return course;
}

ClimbShare::Ready ClimbShare::take_ready() {
  const Ready first = ready_.front();
  std::pop_heap(ready_.begin(), ready_.end());
  ready_.pop_back();
  return first;
}

/// Courses of one round that have so many tries together.
bool ClimbShare::take_whole(Share& share, int64_t tries) {
  share.round = ready_.front().round;
  const int64_t of_each = this->tries(share.round) - first_try(share.round);
  for (; of_each <= tries && !ready_.empty() && ready_.front().round == share.round; tries -= of_each) {
    share.whole.push_back(take_ready().course);
    left_ -= of_each;
  }
  return !share.whole.empty();
}

void ClimbShare::take_part(Part& part, Begun& begun, int64_t tries) {
  const Course& c = courses_[begun.course];
  part.of = begun.course, part.round = begun.round;
  part.begin = begun.handed_out, part.end = int(std::clamp<int64_t>(part.begin + tries, 0, this->tries(part.round)));
  begun.handed_out = part.end;
  left_ -= part.end - part.begin;
  part.version = c.version.load(std::memory_order_relaxed);
  part.climber = c.climber;
  part.climber.step += uint32_t(part.begin - begun.written);
}

bool ClimbShare::take(Share& share) {
  // Large shares first, to be handed out seldom; small ones at the end, so that all come to it together. Half as large, they are
  // 1.6 times as many, and threads wait for the lock a tenth of their time instead of a hundredth.
  constexpr int64_t kShares = 2, kLeast = 8;
  const int64_t tries = std::max(left_ / (threads_ * kShares), kLeast);
  share.whole.clear();
  Begun* course = begun_course();
  // What is certain to count comes first.
  const bool continues = course && course->handed_out == course->done;
  if (!ready_.empty() && !(continues && course->round < ready_.front().round)) {
    if (take_whole(share, tries)) return true;
    const Ready ready = take_ready();
    const int first = first_try(ready.round);
    course = &begun_.emplace_back(Begun{ready.course, ready.round, first, first, first});
  }
  if (!course) return false;
  take_part(share.part, *course, tries);
  return true;
}

void ClimbShare::climb_all(Share& share, const Climb& climb) {
  for (uint32_t i : share.whole) {
    Course& c = courses_[i];
    climb(c.climber, {-first_try(share.round), rounds_[size_t(share.round)], 0, tries(share.round), c.version, c.version});
  }
  if (!share.whole.empty()) return;
  Part& part = share.part;
  const uint32_t before = part.climber.taken;
  const int first = std::max(part.begin, 0);
  const auto& version = courses_[part.of].version;
  climb(part.climber, {std::max(-part.begin, 0), rounds_[size_t(part.round)], first, part.end - first, version, part.version});
  part.helped = part.begin < 0 || part.climber.taken != before;
}

void ClimbShare::finish(const Share& share) {
  for (uint32_t i : share.whole) finish_round(i, share.round);
  if (share.whole.empty()) finish_part(share.part);
  changes_.fetch_add(1, std::memory_order_release);
}

void ClimbShare::settle(Begun& begun, const Part& part) {
  begun.done = part.end;
  if (!part.helped) return;
  Course& c = courses_[begun.course];
  c.climber = part.climber;
  begun.written = part.end;
  c.version.fetch_add(1, std::memory_order_relaxed);
  left_ += begun.handed_out - begun.done;
  begun.handed_out = begun.done;
  c.ahead.clear();
}

void ClimbShare::finish_part(const Part& part) {
  Course& c = courses_[part.of];
  if (part.version != c.version.load(std::memory_order_relaxed)) return;
  const auto begun = std::find_if(begun_.begin(), begun_.end(), [&](const Begun& b) { return b.course == part.of; });
  if (part.begin != begun->done) {
    c.ahead.push_back(part);
    return;
  }
  settle(*begun, part);
  for (bool more = true; more;) {
    auto next = std::find_if(c.ahead.begin(), c.ahead.end(), [&](const Part& p) { return p.begin == begun->done; });
    more = next != c.ahead.end();
    if (!more) break;
    const Part counted = *next;
    c.ahead.erase(next);
    settle(*begun, counted);
  }
  if (begun->done < tries(begun->round)) return;
  c.climber.step += uint32_t(begun->done - begun->written);
  begun_.erase(begun);
  finish_round(part.of, part.round);
}

/// With u climbers of n that have not finished, the best k - u finishers are certain to be among the best k. With each finisher
/// there is one more of them: the new one, or else the one behind the last.
void ClimbShare::finish_round(uint32_t course, int round) {
  Climber& climber = courses_[course].climber;
  const Round& finished = rounds_[size_t(round)];
  end_round(climber, finished);
  std::vector<Finisher>& finishers = finishers_[size_t(round)];
  const Finisher finisher{climber.change, climber.stream, course};
  const auto place = finishers.insert(std::upper_bound(finishers.begin(), finishers.end(), finisher), finisher);
  if (&finished == &rounds_.back()) return;
  const auto certain = rounds_[size_t(round) + 1].climbers - (finished.climbers - std::ptrdiff_t(finishers.size()));
  if (certain <= 0) return;
  const auto next = place - finishers.begin() < certain ? place : finishers.begin() + (certain - 1);
  enter(next->course, round + 1);
}

void ClimbShare::work(const Climb& climb) try { work_on(climb); } catch (...) {
  // What this thread had in hand is lost: the others must not wait for it.
  std::lock_guard<Lock> lock(mutex_);
  abandoned_ = true;
  throw;
}

void ClimbShare::work_on(const Climb& climb) {
  constexpr int kPatience = 4000;  // pauses, about 50 microseconds
  constexpr auto kNap = std::chrono::microseconds(50);
  Share share;
  std::unique_lock<Lock> lock(mutex_);
  while (!all_done() && !abandoned_) {
    if (take(share)) {
      lock.unlock();
      climb_all(share, climb);
      lock.lock();
      finish(share);
      continue;
    }
    // All is handed out; some of it may have to be done again. Who has it may have been descheduled.
    const uint32_t seen = changes_.load(std::memory_order_acquire);
    lock.unlock();
    for (int i = 0; i < kPatience && changes_.load(std::memory_order_acquire) == seen; ++i) _mm_pause();
    if (changes_.load(std::memory_order_acquire) == seen) std::this_thread::sleep_for(kNap);
    lock.lock();
  }
}

const Climber& ClimbShare::best() const { return courses_[finishers_.back().front().course].climber; }

}  // namespace sinter::shapes
