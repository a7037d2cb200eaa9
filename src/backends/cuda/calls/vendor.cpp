#include "backends/cuda/calls/vendor.h"

#include "backends/cuda/driver_api.h"
#include "base/error.h"

namespace sinter::cuda {

Vendor::Vendor(const Context& context, Cache* cache, VendorLimits limits, Kernels* kernels, bool tile_products)
    : context_(context),
      cache_(cache),
      limits_(limits),
      kernels_(kernels),
      tile_products_(tile_products),
      cublaslt_(find_cublaslt(&why_no_cublaslt_)),
      cudnn_(find_cudnn(&why_no_cudnn_)) {}

Vendor::~Vendor() {
  for (auto& [stream, handle] : stream_handles_) cudnn_->destroy(handle);
  for (void* handle : idle_planning_handles_) cudnn_->destroy(handle);
  if (cublaslt_handle_) cublaslt_->destroy(cublaslt_handle_);
}

void Vendor::prepare(const Stream& stream) {
  if (cublaslt_) cublaslt_handle();
  if (cudnn_) cudnn_handle(stream);
}

void* Vendor::cublaslt_handle() {
  std::lock_guard lock(mutex_);
  if (!cublaslt_handle_) {
    SINTER_ASSERT(cublaslt_);
    context_.make_current();
    if (int status = cublaslt_->create(&cublaslt_handle_)) fail_cublaslt(*cublaslt_, status, "starting cuBLASLt");
  }
  return cublaslt_handle_;
}

void* Vendor::cudnn_handle(const Stream& stream) {
  std::lock_guard lock(mutex_);
  for (auto& [known, handle] : stream_handles_)
    if (known == stream.handle()) return handle;
  void* handle = new_cudnn_handle();
  if (int status = cudnn_->set_stream(handle, stream.handle())) {
    cudnn_->destroy(handle);
    fail_cudnn(*cudnn_, status, "giving cuDNN a stream");
  }
  stream_handles_.emplace_back(stream.handle(), handle);
  return handle;
}

void* Vendor::new_cudnn_handle() {
  SINTER_ASSERT(cudnn_);
  context_.make_current();
  void* handle = nullptr;
  if (int status = cudnn_->create(&handle)) fail_cudnn(*cudnn_, status, "starting cuDNN");
  return handle;
}

Vendor::PlanningHandle::PlanningHandle(Vendor& vendor) : vendor_(vendor) {
  {
    std::lock_guard lock(vendor.mutex_);
    if (!vendor.idle_planning_handles_.empty()) {
      handle_ = vendor.idle_planning_handles_.back();
      vendor.idle_planning_handles_.pop_back();
      vendor.context_.make_current();
      return;
    }
  }
  handle_ = vendor.new_cudnn_handle();
}

Vendor::PlanningHandle::~PlanningHandle() {
  std::lock_guard lock(vendor_.mutex_);
  vendor_.idle_planning_handles_.push_back(handle_);
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
