#pragma once
#include <future>
#include <memory>
#include <set>
#include <string>

#include "backends/cuda/calls/vendor.h"
#include "backends/cuda/kernels/kernels.h"
#include "compiler/compiled_graph.h"

namespace sinter::cuda {

/// How launches are chosen and submitted; none of it changes what is computed.
struct EngineOptions {
  bool tune = false;            ///< time the vendors' candidates, and keep the choices in the cache
  bool replay = true;           ///< submit a plan's launches as one device graph from its second run on
  bool allow_tf32 = false;      ///< f32 products may round their factors to 10 fraction bits
  bool f16_accumulate = false;  ///< f16 products may be summed in f16
  bool many_sizes = false;      ///< runs will come at several sizes: kernels that only some need are compiled with the others
};

/// The row kernels of a program, one function for each variant.
struct KernelCode : LoadedCode {
  Module module;
  std::vector<Function> functions;
  KernelCode(const Context& context, const Program& program);
};
const Function& function_of(const Unit& unit, int32_t variant);

/// Device memory that is replaced when more is needed; what plans hold of it is lost then.
class GrowingMemory {
 public:
  GrowingMemory(const Context& context, const char* what) : context_(context), what_(what) {}
  /// So many bytes or more; `version` counts replacements. Where they are not to be had, and from then on: at least `least`.
  DevicePtr at_least(int64_t bytes, int64_t least);
  DevicePtr at_least(int64_t bytes) { return at_least(bytes, bytes); }
  void release();
  DevicePtr address() const { return memory_.address(); }
  int64_t bytes() const { return memory_.bytes(); }
  int64_t version() const { return version_; }

 private:
  const Context& context_;
  const char* what_;
  DeviceMemory memory_;
  bool short_ = false;
  int64_t version_ = 0;
};

/// Holds device memory that it can take again when it needs it, and knows how.
class MemoryHolder {
 public:
  virtual ~MemoryHolder() = default;
  /// Nothing runs meanwhile.
  virtual void give_back_memory() = 0;
};

class UploadRing;

/// An NVIDIA GPU. Everything is queued on one stream; vendor calls share one workspace.
class Engine final : public sinter::Engine {
 public:
  /// `ordinal` as CUDA counts devices. The cache outlives the engine.
  Engine(Cache& cache, int threads, int ordinal, EngineOptions options = {});
  ~Engine() override;

  const EngineOptions& options() const { return options_; }
  const Context& context() const { return context_; }
  const Stream& stream() const { return stream_; }
  Vendor& vendor() { return vendor_; }
  Kernels& kernels() { return kernels_; }
  KernelTarget& kernel_target() { return kernel_stream_; }
  GrowingMemory& arena() { return arena_; }
  GrowingMemory& workspace() { return workspace_; }
  UploadRing& upload_ring();
  DevicePtr group_stats_counters();  ///< for all calls, which follow each other on the stream
  /// f32, for all attention of f8e4m3: 1, then what probabilities are stored times, then its inverse, then two that are written.
  DevicePtr fp8_attention_numbers();

  /// Why attention cannot multiply in f8e4m3 here; empty where it can.
  std::string why_no_fp8_attention() const;

  std::string target_text() const override;
  std::string_view compiler_version() const override;
  LowerOptions lowering() const override;
  void generate(Program& program) const override;
  std::unique_ptr<LoadedCode> load(Program& program) const override;
  int64_t alignment() const override;
  bool in_host_memory() const override { return false; }
  /// The workspace, and the code of kernels and libraries.
  int64_t shared_bytes() const override;
  int64_t scratch_bytes(const Unit& unit, const Step& step, const Bindings& bindings) override;
  std::unique_ptr<sinter::BoundWeights> bind_weights(const CompiledGraph& compiled) override;
  std::unique_ptr<sinter::Plan> plan(const CompiledGraph& compiled, const Layout& layout,
                                     const sinter::BoundWeights& weights) override;

  void release_buffers() override;

  /// Runs `body`, which takes device memory. Where there is not enough, because others have taken some since the run was planned,
  /// gives back everything that can be taken again, says so once, and runs it once more.
  template <class Body>
  auto with_enough_memory(Body&& body) {
    try {
      return body();
    } catch (const Error& e) {
      if (e.code() != Code::OutOfMemory) throw;
      give_back_memory(e);
    }
    return body();
  }
  void add(MemoryHolder& holder) { holders_.insert(&holder); }
  void remove(MemoryHolder& holder) { holders_.erase(&holder); }

  /// Looks how much memory is taken now; taken_bytes() is the most that was seen since the engine was made, by everybody.
  void note_memory();
  int64_t taken_bytes() const { return taken_; }

 private:
  void give_back_memory(const Error& why);
  /// Starts compiling the fixed kernels that will be needed.
  void begin_modules(const Program& program) const;
  void begin_shortcut_modules(const Program& program, size_t step) const;
  void begin_modules_of_other_sizes(const Program& program) const;
  Module load_fixed(std::string_view ptx, std::string_view name);

  EngineOptions options_;
  std::future<void> opening_;  // of libraries, while the context is made
  Context context_;
  GpuTarget target_;
  Stream stream_;
  mutable Vendor vendor_;  // for any thread
  Kernels kernels_;
  KernelStream kernel_stream_;
  GrowingMemory arena_, workspace_;
  std::set<MemoryHolder*> holders_;
  std::unique_ptr<UploadRing> upload_ring_;
  DeviceMemory counters_, fp8_attention_numbers_;
  int64_t free_at_start_ = 0, taken_ = 0;
  std::future<void> products_begun_;  // uses what stands above
};

}  // namespace sinter::cuda
