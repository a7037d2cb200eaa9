#pragma once
#include <memory>
#include <string>

#include "codegen/element_types.h"
#include "codegen/emit.h"
#include "codegen/gpu_math.h"
#include "compiler/kernel/gpu_row_kernel.h"

namespace sinter {

/// What the code of a GPU kernel asks of the machine under it. Two machines exist: a GPU, and a CPU that plays one for tests.
/// Emits at the place of the builder given last.
class GpuDevice {
 public:
  using V = llvm::Value*;
  virtual ~GpuDevice() = default;

  /// A new kernel with this many argument slots, for blocks of this many threads.
  virtual llvm::Function* kernel(const std::string& symbol, int slots, int threads) = 0;
  void emit_into(llvm::IRBuilder<>& builder) { b_ = &builder; }

  virtual V argument(int slot, llvm::Type* type) = 0;  ///< the low bits of a slot
  virtual V thread_number() = 0;                       ///< in its block, i32
  virtual V block_number() = 0;                        ///< i32
  virtual V shuffle(V x, int distance) = 0;            ///< the f32 x of the thread whose number in its warp differs by xor
  virtual void barrier() = 0;                          ///< waits for all threads of the block
  /// Before the first access to operands: lets the kernels queued after this one begin, and waits for those before it.
  virtual void wait_for_operands() = 0;
  /// Whether a kernel begins while others still write what it reads: nothing is constant from its beginning on then.
  virtual bool overlaps() const = 0;
  virtual V shared_floats(int count) = 0;     ///< memory of the block, aligned to 16 bytes; once a kernel
  virtual unsigned global_space() const = 0;  ///< LLVM's number for the address space of operands

  virtual std::unique_ptr<VectorMath> math(GpuQuick quick) = 0;
  virtual std::unique_ptr<ElementTypes> types(VectorMath& math) = 0;

 protected:
  llvm::IRBuilder<>& b() { return *b_; }

 private:
  llvm::IRBuilder<>* b_ = nullptr;
};

std::unique_ptr<GpuDevice> nvptx_device(llvm::Module& module, const GpuTarget& target);
/// Functions of the type GpuRehearsalFunction.
std::unique_ptr<GpuDevice> rehearsal_device(Emitter& emitter);

/// Adds the kernel `symbol`.
void add_gpu_row_kernel(GpuDevice& device, const std::string& symbol, const RowKernel& kernel, const GpuSchedule& schedule);

}  // namespace sinter
