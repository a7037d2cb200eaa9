#pragma once
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backends/cuda/calls/libraries.h"
#include "backends/cuda/driver.h"
#include "backends/cuda/kernels/kernels.h"
#include "compiler/cache.h"

namespace sinter::cuda {

/// A vendor call with all its addresses. It keeps its plan; the Vendor must outlive both.
class BoundCall {
 public:
  virtual ~BoundCall() = default;
  /// Queues the call. No allocation and no wait; works inside a capture once the stream is prepared (Vendor::prepare).
  virtual void launch(const Stream& stream) const = 0;
};

/// Device memory that calls of one stream share; each reads and writes it only while it runs.
struct Workspace {
  DevicePtr address = 0;  ///< aligned to 256 bytes
  int64_t bytes = 0;
};

/// A plan, or the reason in words why the library has none: then the caller uses a kernel of its own.
template <class Plan>
struct Planned {
  std::shared_ptr<const Plan> plan;
  std::string why_none;
  explicit operator bool() const { return plan != nullptr; }
  const Plan* operator->() const { return plan.get(); }
};

/// Candidates that are built but not timed. Building takes tens of milliseconds, and many threads can do it at once.
using Prepared = std::shared_ptr<void>;

/// Asks for candidates to be timed, with buffers as they will be: of the same alignments and with random content (zeros run
/// faster and mislead). The outputs are written.
template <class Buffers>
struct TuneOn {
  const Stream& stream;
  Buffers buffers;
  Workspace workspace;
  /// What prepare_conv() and the like built before, on any thread; null: they are built now.
  Prepared candidates = nullptr;
};

/// What every stored choice tells of itself.
struct Choice {
  double microseconds = 0;  ///< as timed; 0 where it was not
  int candidates = 0;       ///< that were timed
  bool from_cache = false;
};

/// What timing has found until now; or what it had found when planning of a run began, for what is planned while calls are timed:
/// so choices do not depend on which thread is faster.
enum class Known { Now, Before };

struct VendorLimits {
  int64_t workspace_bytes = int64_t(64) << 20;  ///< preferred most; cuDNN may need more for a few shapes
};

/// The handles of the vendor libraries in one context. All functions may be called from several threads; the libraries'
/// heuristics run one at a time where they must. Missing libraries are no error: their plans are "none", with the reason.
class Vendor {
 public:
  /// `cache` may be null: nothing is kept then. Handles are made when first needed (cuDNN: 0.1 s).
  /// `kernels`: ours, which compete with the libraries' where they can; null: they do not.
  Vendor(const Context& context, Cache* cache, VendorLimits limits = {}, Kernels* kernels = nullptr);
  ~Vendor();
  Vendor(const Vendor&) = delete;
  Vendor& operator=(const Vendor&) = delete;

  /// Makes what calls planned so far need of a stream, so that a capture can begin on it.
  void prepare(const Stream& stream);

  const Context& context() const { return context_; }
  Cache* cache() const { return cache_; }
  const VendorLimits& limits() const { return limits_; }
  Kernels* kernels() const { return kernels_; }
  /// Opened when first asked for, and waited for where another thread is at it.
  const CublasLtCalls* cublaslt() const { return find_cublaslt(); }
  const CudnnCalls* cudnn() const { return find_cudnn(); }
  std::string why_no_cublaslt() const;
  std::string why_no_cudnn() const;

  void* cublaslt_handle();
  /// For executing on a stream, which must live as long as this; used by one thread at a time, as streams are.
  void* cudnn_handle(const Stream& stream);

  /// A cuDNN handle that no other thread plans with meanwhile. There are kPlanningHandles at most, because each takes 8 MB of
  /// the device and 3 ms; more threads wait, and would wait inside the library.
  class PlanningHandle {
   public:
    explicit PlanningHandle(Vendor& vendor);
    ~PlanningHandle();
    PlanningHandle(const PlanningHandle&) = delete;
    PlanningHandle& operator=(const PlanningHandle&) = delete;
    void* get() const { return handle_; }

   private:
    Vendor& vendor_;
    void* handle_ = nullptr;
  };

  /// What timing has found in this process: configurations that won or came near for calls of a family.
  void note_promising(const std::string& family, const std::string& config);
  std::set<std::string> promising(const std::string& family, Known known = Known::Now);
  /// What is known now is what Known::Before means from now on.
  void settle_promising();

  /// Device, driver and library versions as they belong into a cache key.
  Facts key_facts(std::string_view library, size_t version) const;

 private:
  static constexpr int kPlanningHandles = 3;
  void* new_cudnn_handle();

  const Context& context_;
  Cache* cache_;
  VendorLimits limits_;
  Kernels* kernels_;
  std::mutex mutex_;
  void* cublaslt_handle_ = nullptr;
  std::vector<std::pair<void*, void*>> stream_handles_;  // stream, handle
  std::vector<void*> idle_planning_handles_;
  int planning_handles_ = 0;
  std::condition_variable planning_handle_idle_;
  std::map<std::string, std::set<std::string>> promising_, promising_before_;
};

/// Throws for a failed cuBLASLt or cuDNN call, with the library's own words.
[[noreturn]] void fail_cublaslt(const CublasLtCalls& calls, int status, const std::string& attempted);
[[noreturn]] void fail_cudnn(const CudnnCalls& calls, int status, const std::string& attempted);

/// Identifies a stored choice: what it is for, in a `kind` ("linear"), with a shape in words.
Digest choice_key(std::string_view kind, std::string_view shape, const Facts& device, bool timed);
CompileFacts choice_facts(std::string_view kind, std::string_view shape, const Facts& device, bool timed, double seconds = 0);

}  // namespace sinter::cuda
