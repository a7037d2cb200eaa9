#include "backends/cuda/calls/vendor.h"

#include "backends/cuda/driver_api.h"
#include "base/error.h"
#include "base/spans.h"

namespace sinter::cuda {

Vendor::Vendor(const Context& context, Cache* cache, VendorLimits limits, Kernels* kernels)
    : context_(context), cache_(cache), limits_(limits), kernels_(kernels) {}

Vendor::~Vendor() {
  for (auto& [stream, handle] : stream_handles_) cudnn()->destroy(handle);
  for (void* handle : idle_planning_handles_) cudnn()->destroy(handle);
  if (cublaslt_handle_) cublaslt()->destroy(cublaslt_handle_);
}

std::string Vendor::why_no_cublaslt() const {
  std::string why;
  find_cublaslt(&why);
  return why;
}
std::string Vendor::why_no_cudnn() const {
  std::string why;
  find_cudnn(&why);
  return why;
}

void Vendor::prepare(const Stream& stream) {
  if (cublaslt()) cublaslt_handle();
  auto plans_with_cudnn = [&] {
    std::lock_guard lock(mutex_);
    return planning_handles_ > 0;
  };
  if (plans_with_cudnn()) cudnn_handle(stream);
}

void* Vendor::cublaslt_handle() {
  std::lock_guard lock(mutex_);
  if (!cublaslt_handle_) {
    SINTER_ASSERT(cublaslt());
    const Span span("start a library", "cuBLASLt");
    context_.make_current();
    if (int status = cublaslt()->create(&cublaslt_handle_)) fail_cublaslt(*cublaslt(), status, "starting cuBLASLt");
  }
  return cublaslt_handle_;
}

void* Vendor::cudnn_handle(const Stream& stream) {
  std::lock_guard lock(mutex_);
  for (auto& [known, handle] : stream_handles_)
    if (known == stream.handle()) return handle;
  void* handle = new_cudnn_handle();
  if (int status = cudnn()->set_stream(handle, stream.handle())) {
    cudnn()->destroy(handle);
    fail_cudnn(*cudnn(), status, "giving cuDNN a stream");
  }
  stream_handles_.emplace_back(stream.handle(), handle);
  return handle;
}

void* Vendor::new_cudnn_handle() {
  SINTER_ASSERT(cudnn());
  const Span span("start a library", "cuDNN");
  context_.make_current();
  void* handle = nullptr;
  if (int status = cudnn()->create(&handle)) fail_cudnn(*cudnn(), status, "starting cuDNN");
  return handle;
}

Vendor::PlanningHandle::PlanningHandle(Vendor& vendor) : vendor_(vendor) {
  vendor.context_.make_current();
  std::unique_lock lock(vendor.mutex_);
  vendor.planning_handle_idle_.wait(
      lock, [&] { return !vendor.idle_planning_handles_.empty() || vendor.planning_handles_ < kPlanningHandles; });
  if (!vendor.idle_planning_handles_.empty()) {
    handle_ = vendor.idle_planning_handles_.back();
    vendor.idle_planning_handles_.pop_back();
    return;
  }
  ++vendor.planning_handles_;
  lock.unlock();  // others may use the library's first handle, or cuBLASLt, meanwhile
  try {
    handle_ = vendor.new_cudnn_handle();
  } catch (...) {
    lock.lock();
    --vendor.planning_handles_;
    vendor.planning_handle_idle_.notify_one();
    throw;
  }
}

Vendor::PlanningHandle::~PlanningHandle() {
  std::lock_guard lock(vendor_.mutex_);
  vendor_.idle_planning_handles_.push_back(handle_);
  vendor_.planning_handle_idle_.notify_one();
}

void Vendor::note_promising(const std::string& family, const std::string& config) {
  std::lock_guard lock(mutex_);
  promising_[family].insert(config);
}

std::set<std::string> Vendor::promising(const std::string& family, Known known) {
  std::lock_guard lock(mutex_);
  const auto& all = known == Known::Now ? promising_ : promising_before_;
  auto found = all.find(family);
  return found == all.end() ? std::set<std::string>{} : found->second;
}

void Vendor::settle_promising() {
  std::lock_guard lock(mutex_);
  promising_before_ = promising_;
}

Facts Vendor::key_facts(std::string_view library, size_t version) const {
  const DeviceInfo& device = context_.device();
  return {{"target", fmt::format("{} sm_{} {} SMs", device.name, device.capability(), device.multiprocessors)},
          {std::string(library), fmt::format("{}", version)},
          {"driver", device.driver_version.empty() ? cuda_version_text(device.cuda_version) : device.driver_version}};
}

void fail_cublaslt(const CublasLtCalls& calls, int status, const std::string& attempted) {
  const char* text = calls.status_text(status);
  const std::string message =
      fmt::format("{}: cuBLASLt {} says {} ({})", attempted, calls.version_text(), text ? text : "nothing", status);
  constexpr int kAllocationFailed = 3;
  if (status == kAllocationFailed) fail_out_of_memory(message, 0);
  throw_if_device_is_to_blame(message);
  throw Error(Code::Internal, message);
}

void fail_cudnn(const CudnnCalls& calls, int status, const std::string& attempted) {
  char reason[2048] = "";
  calls.last_error(reason, sizeof reason);
  const char* text = calls.status_text(status);
  const std::string message = fmt::format("{}: cuDNN {} says {} ({}){}{}", attempted, calls.version_text(),
                                          text ? text : "nothing", status, *reason ? ": " : "", reason);
  constexpr int kHostAllocationFailed = 4003, kDeviceAllocationFailed = 4004, kFirstOfExecution = 4000;
  if (status == kHostAllocationFailed || status == kDeviceAllocationFailed) fail_out_of_memory(message, 0);
  if (status >= kFirstOfExecution) throw_if_device_is_to_blame(message);  // below: it was asked for what there is not
  throw Error(Code::Internal, message);
}

Digest choice_key(std::string_view kind, std::string_view shape, const Facts& device, bool timed) {
  constexpr int kFormat = 1;
  Hasher hasher;
  hasher.add("vendor call").add(kFormat).add(kind).add(shape).add(timed);
  for (const auto& [name, value] : device) hasher.add(name).add(value);
  return hasher.digest();
}

CompileFacts choice_facts(std::string_view kind, std::string_view shape, const Facts& device, bool timed, double seconds) {
  CompileFacts facts{.label = fmt::format("{} {}", kind, shape), .facts = device, .seconds = seconds};
  facts.facts.emplace_back("choice", timed ? "timed" : "heuristic");
  return facts;
}

}  // namespace sinter::cuda
