#pragma once
#include <memory>
#include <optional>

#include "backends/cpu/arena.h"
#include "backends/cpu/microkernels.h"
#include "compiler/compiled_graph.h"

namespace sinter::cpu {

/// The row kernels of a program.
struct KernelCode : LoadedCode {
  ObjectCode object;
  std::vector<RowKernelFunction> kernels;
  explicit KernelCode(const Program& program);
};
RowKernelFunction kernel_of(const Unit& unit, int32_t kernel);

/// The CPU: its threads run every step, its matrix kernels are shared by all programs.
class Engine final : public sinter::Engine {
 public:
  /// `threads` 0: one a core. The cache outlives the engine.
  Engine(Cache& cache, int threads = 0);

  const CpuTarget& target() const { return target_; }
  /// Compiled, or read from the cache, at the first call.
  const Microkernels& microkernels();
  Arena& arena() { return arena_; }

  std::string target_text() const override { return target_.text(); }
  std::string_view compiler_version() const override;
  LowerOptions lowering() const override;
  void generate(Program& program) const override;
  std::unique_ptr<LoadedCode> load(Program& program) const override;
  std::vector<SharedProgram> shared_programs() override;
  int64_t alignment() const override { return 64; }
  int64_t scratch_bytes(const Unit& unit, const Step& step, const Bindings& bindings) override;
  std::unique_ptr<sinter::BoundWeights> bind_weights(const CompiledGraph& compiled) override;
  std::unique_ptr<sinter::Plan> plan(const CompiledGraph& compiled, const Layout& layout,
                                     const sinter::BoundWeights& weights) override;

  void release_buffers() override { arena_.release(); }

 private:
  SharedProgram microkernels_program();
  void load_microkernels_from(const Blob& object);

  CpuTarget target_;
  Arena arena_;
  std::optional<ObjectCode> code_;
  std::optional<Microkernels> microkernels_;
};

}  // namespace sinter::cpu
