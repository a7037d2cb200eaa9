#pragma once
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>

#include "backends/cuda/driver.h"

namespace sinter::cuda {

/// Where the launch functions of this folder send kernels: a stream of a device, or the emulation of tests.
class KernelTarget {
 public:
  virtual ~KernelTarget() = default;
  /// Kernels are known by name; `arguments` as for Function::launch().
  virtual void launch(std::string_view kernel, const LaunchShape& shape, std::span<void* const> arguments) = 0;
  virtual int multiprocessors() const = 0;

  template <class... Args>
  void operator()(std::string_view kernel, const LaunchShape& shape, Args... args) {
    void* pointers[] = {static_cast<void*>(&args)...};
    launch(kernel, shape, pointers);
  }
};

/// The fixed kernels of a device. Each module is compiled when it is first asked for, by any thread, which must not happen during
/// a capture: load() before one.
class Kernels {
 public:
  /// Turns PTX into loaded machine code, or finds what an earlier run made of it.
  using Load = std::function<Module(const Context& context, std::string_view ptx, std::string_view name)>;
  explicit Kernels(const Context& context, Load load = compile_and_load);
  Kernels(const Kernels&) = delete;
  Kernels& operator=(const Kernels&) = delete;

  /// The names of the modules: "group_stats", "rows", ...
  static std::span<const std::string_view> modules();
  /// The PTX of a module for a device; what is newer than the driver is not taken.
  static std::string_view ptx(std::string_view module, const DeviceInfo& device);
  /// Whether a module's kernels wait for those queued before them, so that they are launched to begin earlier.
  static bool waits_by_itself(std::string_view module, const DeviceInfo& device);
  /// All PTX texts that are built in, by name and least architecture: "rows (sm_89)".
  static std::map<std::string, std::string_view> all_ptx();

  void load(std::string_view module);
  /// A kernel is named MODULE__REST. Code::NotFound.
  const Function& function(std::string_view kernel);
  const Context& context() const { return context_; }

 private:
  struct Loaded {
    std::once_flag once;
    Module module;
  };
  static Module compile_and_load(const Context& context, std::string_view ptx, std::string_view name);
  const Module& module(std::string_view name);
  Module load_now(std::string_view name);

  const Context& context_;
  Load load_;
  std::mutex mutex_;  // of both maps
  std::map<std::string, Loaded, std::less<>> loaded_;
  std::map<std::string, Function, std::less<>> functions_;
};

/// Sends kernels to a stream.
class KernelStream : public KernelTarget {
 public:
  KernelStream(Kernels& kernels, const Stream& stream) : kernels_(kernels), stream_(stream) {}
  void launch(std::string_view kernel, const LaunchShape& shape, std::span<void* const> arguments) override;
  int multiprocessors() const override { return kernels_.context().device().multiprocessors; }

 private:
  Kernels& kernels_;
  const Stream& stream_;
};

}  // namespace sinter::cuda
