#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <utility>

namespace sinter {

namespace {

/// Looks for up to 30 microseconds whether `seen` holds. Between the kernels of one step a few microseconds pass, and waking a
/// thread that sleeps takes tens of them; looking for longer would take the core from whoever else wants it.
template <class Condition>
bool look_for(const Condition& seen) {
  constexpr auto kLongest = std::chrono::microseconds(30);
  const auto end = std::chrono::steady_clock::now() + kLongest;
  do {
    for (int i = 0; i < 32; ++i) {
      if (seen()) return true;
      __builtin_ia32_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = available_cores();
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::take_pieces(int worker) {
  for (;;) {
    int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= count_) return;
    try {
      (*body_)(begin, std::min(count_, begin + grain_), worker);
    } catch (...) {
      std::lock_guard lock(error_mutex_);
      if (!error_) error_ = std::current_exception();
      next_.store(count_, std::memory_order_relaxed);
    }
  }
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  auto called = [&] { return announced_.load() != seen || stopping_.load(); };
  while (!stopping_) {
    if (!look_for(called)) {
      std::unique_lock lock(mutex_);
      ++sleepers_;  // before the last look: parallel_for announces before it looks for sleepers
      wake_.wait(lock, called);
      --sleepers_;
    }
    seen = announced_;
    ++inside_;
    if (open_) take_pieces(worker);
    if (--inside_ == 0 && caller_sleeps_) {
      std::lock_guard lock(mutex_);
      done_.notify_one();
    }
  }
}

void ThreadPool::wait_for_workers() {
  auto left = [&] { return inside_.load() == 0; };
  if (look_for(left)) return;
  std::unique_lock lock(mutex_);
  caller_sleeps_ = true;
  done_.wait(lock, left);
  caller_sleeps_ = false;
}

/// Shows the job to the workers.
void ThreadPool::open(int64_t count, int64_t grain, const Body& body) {
  count_ = count, grain_ = std::max<int64_t>(grain, 1), body_ = &body;
  next_.store(0, std::memory_order_relaxed);
  error_ = nullptr;
  open_ = true;
  ++announced_;
  if (sleepers_ > 0 && count > grain_) {  // nobody is woken for what the caller does as soon
    { std::lock_guard lock(mutex_); }     // whoever is on the way to sleep is asleep now, or has seen the announcement
    wake_.notify_all();
  }
}

/// Takes pieces until none is left, and gives the first exception of one.
std::exception_ptr ThreadPool::close() {
  take_pieces(0);
  open_ = false;  // a worker that wakes only now finds nothing to do
  wait_for_workers();
  return std::exchange(error_, nullptr);
}

void ThreadPool::parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  if (begun_) begun_->settle();
  grain = std::max<int64_t>(grain, 1);
  if (workers_.empty() || count <= grain) {
    for (int64_t begin = 0; begin < count; begin += grain) body(begin, std::min(count, begin + grain), 0);
    return;
  }
  open(count, grain, body);
  if (std::exception_ptr error = close()) std::rethrow_exception(error);
}

ThreadPool::Job::Job(ThreadPool& pool, int64_t count, int64_t grain, Body body) : pool_(pool), body_(std::move(body)) {
  if (pool.begun_) pool.begun_->settle();
  pool.begun_ = this;
  pool.open(count, grain, body_);
}

void ThreadPool::Job::settle() {
  if (pool_.begun_ != this) return;
  error_ = pool_.close();
  pool_.begun_ = nullptr;
}

void ThreadPool::Job::finish() {
  settle();
  if (error_) std::rethrow_exception(error_);
}

int available_cores() {
  cpu_set_t set;
  int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : int(std::thread::hardware_concurrency());
  // A container's CPU quota ("max 100000" or "200000 100000", in microseconds of each period).
  std::ifstream quota_file("/sys/fs/cgroup/cpu.max");
  std::string quota;
  double period = 0;
  if (quota_file >> quota >> period && quota != "max" && period > 0)
    cores = std::min(cores, std::max(1, int(std::stod(quota) / period + 0.5)));
  return std::max(cores, 1);
}

}  // namespace sinter
