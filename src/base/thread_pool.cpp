#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace sinter {

struct ThreadPool::Job {
  int64_t count, grain;
  const Body* body;
  std::atomic<int64_t> next{0};
  std::mutex error_mutex;
  std::exception_ptr error;
};

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

void ThreadPool::take_pieces(Job& job, int worker) {
  for (;;) {
    int64_t begin = job.next.fetch_add(job.grain, std::memory_order_relaxed);
    if (begin >= job.count) return;
    try {
      (*job.body)(begin, std::min(job.count, begin + job.grain), worker);
    } catch (...) {
      std::lock_guard lock(job.error_mutex);
      if (!job.error) job.error = std::current_exception();
      job.next.store(job.count, std::memory_order_relaxed);
    }
  }
}

void ThreadPool::work(int worker) {
  // Between the kernels of one step a few microseconds pass: looking that long for the next job saves a trip through the
  // kernel; longer would take the core from whoever else wants it.
  constexpr int kLooks = 2000;
  uint64_t seen = 0;
  for (;;) {
    for (int i = 0; i < kLooks && announced_.load(std::memory_order_relaxed) == seen; ++i) __builtin_ia32_pause();
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [&] { return stopping_ || (job_ && generation_ != seen); });
    if (stopping_) return;
    seen = generation_;
    Job* job = job_;
    ++active_;
    lock.unlock();
    take_pieces(*job, worker);
    lock.lock();
    if (--active_ == 0) done_.notify_one();
  }
}

void ThreadPool::parallel_for(int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  grain = std::max<int64_t>(grain, 1);
  if (workers_.empty() || count <= grain) {
    for (int64_t begin = 0; begin < count; begin += grain) body(begin, std::min(count, begin + grain), 0);
    return;
  }
  Job job{count, grain, &body, {}, {}, {}};
  {
    std::lock_guard lock(mutex_);
    job_ = &job;
    announced_.store(++generation_, std::memory_order_relaxed);
  }
  wake_.notify_all();
  take_pieces(job, 0);
  {
    std::unique_lock lock(mutex_);
    job_ = nullptr;  // a worker that wakes only now finds nothing to do
    done_.wait(lock, [&] { return active_ == 0; });
  }
  if (job.error) std::rethrow_exception(job.error);
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
