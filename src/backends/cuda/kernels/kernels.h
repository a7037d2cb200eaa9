#pragma once
#include <atomic>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <semaphore>
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

/// The fixed kernels of a device, for any thread. Each is compiled by itself when it is first asked for, which must not happen
/// during a capture. Where it is known earlier what will be asked for, begin_kernel() compiles it meanwhile, on a thread of its
/// own.
class Kernels {
 public:
  /// Turns PTX into loaded machine code, or finds what an earlier run made of it; on any thread.
  using Load = std::function<Module(const Context& context, std::string_view ptx, std::string_view name)>;
  explicit Kernels(const Context& context, Load load = compile_and_load);
  /// Gives up what was begun and has not had its turn, and waits for the rest.
  ~Kernels() { ends_ = true; }
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

  /// Starts compiling a kernel. What fails there, whoever asks for the kernel is told.
  void begin_kernel(std::string_view kernel) { started(kernel, std::launch::async); }
  /// The same of all kernels of a module.
  void begin_module(std::string_view module);
  /// A kernel is named MODULE__REST. Code::NotFound.
  const Function& function(std::string_view kernel);
  const Context& context() const { return context_; }

 private:
  static Module compile_and_load(const Context& context, std::string_view ptx, std::string_view name);

  std::shared_future<Module> started(std::string_view kernel, std::launch how);
  const Module& loaded(std::string_view kernel);
  Module make(const std::string& kernel);
  /// For kernels that were begun: no more at once than the machine has threads.
  Module make_in_turn(const std::string& kernel);

  const Context& context_;
  Load load_;
  std::counting_semaphore<> compilers_;  // that may still begin
  std::atomic<bool> ends_ = false;
  std::mutex mutex_;                                                        // of both maps
  std::map<std::string, std::shared_future<Module>, std::less<>> modules_;  // of one kernel each, by its name
  std::map<std::string, Function, std::less<>> functions_;
};

/// Begins what would be launched, for walking through a run before it.
class ForeseenKernels : public KernelTarget {
 public:
  explicit ForeseenKernels(Kernels& kernels) : kernels_(kernels) {}
  void launch(std::string_view kernel, const LaunchShape&, std::span<void* const>) override { kernels_.begin_kernel(kernel); }
  int multiprocessors() const override { return kernels_.context().device().multiprocessors; }

 private:
  Kernels& kernels_;
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
