#include "shapes/climb_share.h"

#include <immintrin.h>

#include <algorithm>
#include <thread>

namespace sinter::shapes {
namespace {

/// So many courses for each thread, the last ones of a round, are shared out in parts: enough for all to end together.
constexpr size_t kSharedCourses = 2;

}  // namespace

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

ClimbShare::ClimbShare(const std::vector<Climber*>& climbers, int candidates, int tries, int threads)
    : courses_(climbers.size()),
      versions_(climbers.size()),
      candidates_(candidates),
      tries_(tries),
      threads_(threads),
      whole_(climbers.size() - std::min(climbers.size(), size_t(threads) * kSharedCourses)),
      left_(int64_t(climbers.size() - whole_) * (candidates + tries)),
      fresh_(whole_) {
  begun_.reserve(climbers.size() - whole_);
  for (size_t i = 0; i < climbers.size(); ++i) courses_[i] = {climbers[i], -candidates, -candidates, {}};
}

/// The course to hand out a part of: one that nobody has begun, else the one with the most to do; of these first who is alone.
/// None: their number.
size_t ClimbShare::next_course() {
  if (fresh_ < courses_.size()) {
    begun_.push_back(fresh_);
    return fresh_++;
  }
  size_t best = courses_.size();
  int most = 0;
  for (size_t i : begun_) {
    const Course& c = courses_[i];
    const bool alone = c.handed_out == c.done;
    if (c.done < 0 && !alone) continue;  // nobody can go ahead of who has not begun
    const int left = tries_ - c.handed_out + (alone ? candidates_ + tries_ : 0);
    if (c.handed_out < tries_ && left > most) most = left, best = i;
  }
  return best;
}

bool ClimbShare::take(Part& part) {
  const size_t best = next_course();
  if (best == courses_.size()) return false;
  Course& c = courses_[best];
  part.of = best;
  // Large parts first, to be handed out seldom; small ones at the end, so that all come to it together. Half as large, they are
  // 1.6 times as many, and threads wait for the lock a tenth of their time instead of a hundredth.
  constexpr int64_t kShares = int64_t(kSharedCourses), kLeast = 8;
  const int64_t size = std::max(left_ / (threads_ * kShares), kLeast);
  part.begin = c.handed_out, part.end = int(std::clamp<int64_t>(c.handed_out + size, 0, tries_));
  left_ -= part.end - part.begin;
  part.version = versions_[best].load(std::memory_order_relaxed);
  part.climber = *c.climber;
  part.climber.step += uint32_t(part.begin - c.done);
  c.handed_out = part.end;
  return true;
}

void ClimbShare::settle(Course& course, const Part& part) {
  course.done = part.end;
  *course.climber = part.climber;
  if (!part.helped) return;
  versions_[part.of].fetch_add(1, std::memory_order_relaxed);
  left_ += course.handed_out - course.done;
  course.handed_out = course.done;
  course.ahead.clear();
}

void ClimbShare::finish(const Part& part) {
  Course& c = courses_[part.of];
  if (part.version != versions_[part.of].load(std::memory_order_relaxed)) return;
  if (part.begin != c.done) {
    c.ahead.push_back(part);
    return;
  }
  settle(c, part);
  for (bool more = true; more;) {
    auto next = std::find_if(c.ahead.begin(), c.ahead.end(), [&](const Part& p) { return p.begin == c.done; });
    more = next != c.ahead.end();
    if (!more) break;
    const Part counted = *next;
    c.ahead.erase(next);
    settle(c, counted);
  }
  if (c.done == tries_) std::erase(begun_, part.of);
  changes_.fetch_add(1, std::memory_order_release);
}

void ClimbShare::work_alone(const Climb& climb) {
  for (size_t i; (i = next_whole_.fetch_add(1, std::memory_order_relaxed)) < whole_;) {
    Climber climber = *courses_[i].climber;
    climb(climber, {candidates_, 0, tries_, versions_[i], 0});
    *courses_[i].climber = climber;
  }
}

void ClimbShare::work(const Climb& climb) {
  constexpr int kPatience = 4000;  // pauses, about 50 microseconds
  work_alone(climb);
  Part part;
  std::unique_lock<Lock> lock(mutex_);
  while (fresh_ < courses_.size() || !begun_.empty()) {
    if (take(part)) {
      lock.unlock();
      const uint32_t before = part.climber.taken;
      const int first = std::max(part.begin, 0);
      climb(part.climber, {std::max(-part.begin, 0), first, part.end - first, versions_[part.of], part.version});
      part.helped = part.climber.taken != before;
      lock.lock();
      finish(part);
      continue;
    }
    // All is handed out; some of it may have to be done again.
    const uint32_t seen = changes_.load(std::memory_order_acquire);
    lock.unlock();
    for (int i = 0; i < kPatience && changes_.load(std::memory_order_acquire) == seen; ++i) _mm_pause();
    if (changes_.load(std::memory_order_acquire) == seen) return;
    lock.lock();
  }
}

}  // namespace sinter::shapes
