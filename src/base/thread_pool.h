#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace sinter {

/// Threads that take small pieces of one job on demand. A thread that the system has descheduled holds up only the piece that it
/// has in hand, never a fixed share of the job, and nobody spins for longer than a few microseconds.
class ThreadPool {
 public:
  /// `threads` counts the caller: 1 means that everything runs where it is called. 0: one for each core this process may use.
  explicit ThreadPool(int threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  using Body = std::function<void(int64_t begin, int64_t end, int worker)>;
  /// Calls body(begin, end, worker) until [0, count) is covered, in pieces of at most `grain`; worker is in [0, threads()) and no
  /// two calls with one worker number run at the same time. Returns when all are done; the first exception of a piece is
  /// rethrown. Only one thread may use a pool at a time, and a body must not use it again.
  void parallel_for(int64_t count, int64_t grain, const Body& body);

  /// The same in two halves, so that who begins can do something else while the workers are busy: he takes pieces from finish()
  /// on. What the body refers to must stay until then. Where the pool is asked for anything else before, that comes after this.
  class Job {
   public:
    Job(ThreadPool& pool, int64_t count, int64_t grain, Body body);
    ~Job() { settle(); }
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;
    /// Returns when all are done; rethrows the first exception of a piece, each time.
    void finish();

   private:
    friend class ThreadPool;
    void settle();

    ThreadPool& pool_;
    const Body body_;
    std::exception_ptr error_;
  };

 private:
  void open(int64_t count, int64_t grain, const Body& body);
  std::exception_ptr close();
  void work(int worker);
  void take_pieces(int worker);
  void wait_for_workers();

  // The job at hand. Written only while it is closed and no worker is inside.
  int64_t count_ = 0, grain_ = 1;
  const Body* body_ = nullptr;
  alignas(64) std::atomic<int64_t> next_{0};
  std::mutex error_mutex_;
  std::exception_ptr error_;

  Job* begun_ = nullptr;  // the job at hand, where that is one in two halves

  // A worker enters (inside_) before it looks whether the job is open; parallel_for closes the job before it looks whether
  // somebody is inside: one of them sees the other.
  alignas(64) std::atomic<uint64_t> announced_{0};  // number of the last job
  std::atomic<bool> open_{false};
  alignas(64) std::atomic<int> inside_{0};

  // For who has looked long enough.
  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> caller_sleeps_{false};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

/// How many cores this process may use (affinity mask and container limits).
int available_cores();

}  // namespace sinter
