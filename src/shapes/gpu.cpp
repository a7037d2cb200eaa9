#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <vector>

#include "backends/cuda/cached_module.h"
#include "backends/cuda/driver.h"
#include "base/error.h"
#include "base/hash.h"
#include "compiler/cache.h"
#include "shapes/gpu_search.h"

namespace sinter::shapes {

using namespace cuda;

namespace {

constexpr std::string_view kName = "shape_search";

Module kernels_of(const Context& context, Cache* cache) {
  auto compile = [&] { return compile_ptx(context, shape_search_ptx, kName); };
  if (!cache) return Module(context, compile(), kName);
  const DeviceInfo& device = context.device();
  const std::string target = fmt::format("sm_{}", device.capability());
  // Another driver may have a better compiler.
  Digest key =
      Hasher().add("shape search").add(shape_search_ptx).add(target).add(cuda_version_text(device.cuda_version)).digest();
  CompileFacts facts{"cuda/shape search kernels", {{"target", target}, {"cuda", cuda_version_text(device.cuda_version)}}, 0};
  return cached_module(context, *cache, key, facts, compile, kName);
}

}  // namespace

class Gpu {
 public:
  Gpu(int ordinal, Cache* cache) : context_(ordinal), module_(kernels_of(context_, cache)) {
    // All now: none may be loaded while launches are recorded.
    for (const char* kernel : {"round", "measure", "draw", "count", "rebuild"}) {
      const std::string name = fmt::format("{}__{}", kName, kernel);
      functions_.emplace(name, module_.function(name));
    }
  }

  const Context& context() const { return context_; }
  const Function& function(std::string_view kernel) {
    auto found = functions_.find(kernel);
    SINTER_ASSERT(found != functions_.end());
    return found->second;
  }

 private:
  Context context_;
  Module module_;
  std::map<std::string, Function, std::less<>> functions_;
};

std::shared_ptr<Gpu> open_gpu(int ordinal, Cache* cache) { return std::make_shared<Gpu>(ordinal, cache); }

namespace {

/// Repetitions are device graphs, so that a launch costs the device a microsecond and the host nothing.
class GpuMachine final : public SearchMachine {
 public:
  explicit GpuMachine(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)), stream_(made_current(gpu_->context())) {}
  ~GpuMachine() override {
    try {
      stream_.synchronize();  // what was queued still uses the memory
    } catch (const Error&) {
      // The run has failed, and says so elsewhere.
    }
  }

  void launch(std::string_view kernel, const LaunchShape& shape, std::span<void* const> arguments) override {
    gpu_->function(kernel).launch(shape, stream_, arguments);
  }
  int multiprocessors() const override { return gpu_->context().device().multiprocessors; }

  DevicePtr allocate(int64_t bytes) override {
    memory_.emplace_back(gpu_->context(), bytes, "the search for shapes");
    return memory_.back().address();
  }
  void* allocate_on_host(int64_t bytes) override {
    pinned_.emplace_back(gpu_->context(), bytes);
    std::memset(pinned_.back().data(), 0, size_t(bytes));
    return pinned_.back().data();
  }
  void upload(DevicePtr to, const void* from, int64_t bytes) override {
    copy_to_device(to, from, bytes, stream_);
    stream_.synchronize();
  }

  int climbing_warps() override {
    // More warps make each one slower; beyond these, hardly any try more is of use (a change in ten or twenty helps).
    constexpr int kLanes = 32;
    int warps = 16;
    const auto& round = gpu_->function("shape_search__round");
    while (warps > 1 && round.blocks_per_multiprocessor(warps * kLanes, climbing_shared_bytes(warps)) == 0) --warps;
    return warps;
  }

  void repeat(const std::function<void()>& launches) override {
    if (!graph_) {
      Capture capture(stream_);
      launches();
      graph_ = capture.finish();
    }
    graph_.launch(stream_);
    if (spare_.empty()) spare_.push_back(std::make_unique<Event>(gpu_->context()));
    spare_.back()->record(stream_);
    queued_.push_back(std::move(spare_.back()));
    spare_.pop_back();
  }
  void wait() override {
    SINTER_ASSERT(!queued_.empty());
    queued_.front()->synchronize();
    spare_.push_back(std::move(queued_.front()));
    queued_.pop_front();
  }

 private:
  static const Context& made_current(const Context& context) {
    context.make_current();
    return context;
  }

  std::shared_ptr<Gpu> gpu_;
  Stream stream_;
  std::vector<DeviceMemory> memory_;
  std::vector<PinnedMemory> pinned_;
  CapturedGraph graph_;
  std::deque<std::unique_ptr<Event>> queued_;
  std::vector<std::unique_ptr<Event>> spare_;
};

}  // namespace

std::unique_ptr<SearchMachine> machine_of(const std::shared_ptr<Gpu>& gpu) { return std::make_unique<GpuMachine>(gpu); }

}  // namespace sinter::shapes
