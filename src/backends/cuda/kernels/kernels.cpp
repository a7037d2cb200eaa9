#include "backends/cuda/kernels/kernels.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <thread>

#include "backends/cuda/kernels/ptx_text.h"
#include "base/error.h"
#include "base/spans.h"

namespace sinter::cuda {

// One text for each module of modules.list, and one more where newer devices have an instruction for it.
#define SINTER_DEVICE_MODULE(name) extern const std::string_view name##_ptx;
#define SINTER_DEVICE_MODULE_89(name) extern const std::string_view name##_ptx, name##_ptx_sm_89;
#define SINTER_DEVICE_MODULE_90(name) extern const std::string_view name##_ptx, name##_ptx_sm_90;
#define SINTER_DEVICE_MODULE_90A(name) extern const std::string_view name##_ptx_sm_90a;
#include "backends/cuda/kernels/modules.list"
#undef SINTER_DEVICE_MODULE
#undef SINTER_DEVICE_MODULE_89
#undef SINTER_DEVICE_MODULE_90
#undef SINTER_DEVICE_MODULE_90A

namespace {

struct BuiltIn {
  std::string_view name, sm_80, sm_89, sm_90;  ///< empty where it would be the same
  std::string_view sm_90a;                     ///< alone: for devices of capability 9.0 and no others
};

const auto& built_in() {
  static const std::array all = {
#define SINTER_DEVICE_MODULE(name) BuiltIn{#name, name##_ptx, {}, {}, {}},
#define SINTER_DEVICE_MODULE_89(name) BuiltIn{#name, name##_ptx, name##_ptx_sm_89, {}, {}},
#define SINTER_DEVICE_MODULE_90(name) BuiltIn{#name, name##_ptx, {}, name##_ptx_sm_90, {}},
#define SINTER_DEVICE_MODULE_90A(name) BuiltIn{#name, {}, {}, {}, name##_ptx_sm_90a},
#include "backends/cuda/kernels/modules.list"
#undef SINTER_DEVICE_MODULE
#undef SINTER_DEVICE_MODULE_89
#undef SINTER_DEVICE_MODULE_90
#undef SINTER_DEVICE_MODULE_90A
  };
  return all;
}

constexpr int kCudaOfSm89 = 12010;  // that took PTX 8.1 first, see SinterDeviceCode.cmake

const BuiltIn& module_called(std::string_view name) {
  for (const BuiltIn& b : built_in())
    if (b.name == name) return b;
  fail(Code::NotFound, "there is no module of GPU kernels called {}", name);
}
constexpr int64_t kSharedBytesWithoutAsking = 48 * 1024;

std::string_view module_of(std::string_view kernel) { return kernel.substr(0, kernel.find("__")); }

/// Each takes a thread for itself: more would only make those that are needed first come later.
int compilers() { return std::max(2, int(std::thread::hardware_concurrency())); }

}  // namespace

Kernels::Kernels(const Context& context, Load load) : context_(context), load_(std::move(load)), compilers_(compilers()) {}

Module Kernels::compile_and_load(const Context& context, std::string_view ptx, std::string_view name) {
  return Module(context, compile_ptx(context, ptx, name), name);
}

std::span<const std::string_view> Kernels::modules() {
  static const auto names = [] {
    std::array<std::string_view, std::tuple_size_v<std::remove_cvref_t<decltype(built_in())>>> all;
    for (size_t i = 0; i < all.size(); ++i) all[i] = built_in()[i].name;
    return all;
  }();
  return names;
}

std::string_view Kernels::ptx(std::string_view module, const DeviceInfo& device) {
  const BuiltIn& b = module_called(module);
  if (!b.sm_90a.empty()) {
    if (device.capability() == 90) return b.sm_90a;
    fail(Code::Unsupported, "the GPU kernels called {} are for capability 9.0; {} has {}.{}", module, device.name,
         device.capability_major, device.capability_minor);
  }
  if (!b.sm_90.empty() && waits_by_itself(module, device)) return b.sm_90;
  return !b.sm_89.empty() && device.capability() >= 89 && device.cuda_version >= kCudaOfSm89 ? b.sm_89 : b.sm_80;
}

bool Kernels::waits_by_itself(std::string_view module, const DeviceInfo& device) {
  const BuiltIn& b = module_called(module);
  return !(b.sm_90.empty() && b.sm_90a.empty()) && device.overlaps_launches();
}

std::map<std::string, std::string_view> Kernels::all_ptx() {
  std::map<std::string, std::string_view> all;
  for (const BuiltIn& b : built_in()) {
    if (!b.sm_80.empty()) all[fmt::format("{} (sm_80)", b.name)] = b.sm_80;
    if (!b.sm_89.empty()) all[fmt::format("{} (sm_89)", b.name)] = b.sm_89;
    if (!b.sm_90.empty()) all[fmt::format("{} (sm_90)", b.name)] = b.sm_90;
    if (!b.sm_90a.empty()) all[fmt::format("{} (sm_90a)", b.name)] = b.sm_90a;
  }
  return all;
}

Module Kernels::make(const std::string& kernel) {
  const std::string text = text_of_kernel(ptx(module_of(kernel), context_.device()), kernel);
  // The linker that gives machine code to keep ignores setmaxnreg, as code that others call could not rely on it. Loaded as text,
  // the module is a program of its own; the driver keeps what it made of it in a cache of its own.
  const bool alone = text.find(".target sm_90a") != text.npos;
  return alone ? Module::of_ptx(context_, text, kernel) : load_(context_, text, kernel);
}

Module Kernels::make_in_turn(const std::string& kernel) {
  compilers_.acquire();
  struct Turn {
    std::counting_semaphore<>& of;
    ~Turn() { of.release(); }
  } turn{compilers_};
  if (ends_) fail(Code::Cancelled, "{} is not wanted any more", kernel);
  return make(kernel);
}

void Kernels::begin_module(std::string_view module) {
  for (std::string_view kernel : kernels_of(ptx(module, context_.device()))) begin_kernel(kernel);
}

std::shared_future<Module> Kernels::started(std::string_view kernel, std::launch how) {
  std::lock_guard lock(mutex_);
  auto at = modules_.find(kernel);
  if (at == modules_.end()) {
    at = modules_.emplace(kernel, std::shared_future<Module>{}).first;
    const auto compile = how == std::launch::async ? &Kernels::make_in_turn : &Kernels::make;
    at->second = std::async(how, compile, this, at->first).share();
  }
  return at->second;
}

const Module& Kernels::loaded(std::string_view kernel) {
  const std::shared_future<Module> one = started(kernel, std::launch::deferred);
  std::optional<Span> waits;
  if (one.wait_for(std::chrono::seconds(0)) != std::future_status::ready) waits.emplace("wait for a kernel", kernel);
  try {
    return one.get();
  } catch (const Error&) {
    std::lock_guard lock(mutex_);
    modules_.erase(std::string(kernel));  // there may be memory for it later
    throw;
  }
}

const Function& Kernels::function(std::string_view kernel) {
  {
    std::lock_guard lock(mutex_);
    if (auto found = functions_.find(kernel); found != functions_.end()) return found->second;
  }
  Function f = loaded(kernel).function(std::string(kernel));
  const int64_t most = context_.device().shared_bytes;
  if (most > kSharedBytesWithoutAsking) f.allow_shared_bytes(most - f.shared_bytes());
  std::lock_guard lock(mutex_);
  return functions_.emplace(kernel, f).first->second;
}

void KernelStream::launch(std::string_view kernel, const LaunchShape& shape, std::span<void* const> arguments) {
  LaunchShape overlapping = shape;
  overlapping.overlaps = Kernels::waits_by_itself(module_of(kernel), kernels_.context().device());
  kernels_.function(kernel).launch(overlapping, stream_, arguments);
}

}  // namespace sinter::cuda
