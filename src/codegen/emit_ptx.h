#pragma once
#include "codegen/emit.h"
#include "compiler/kernel/gpu_row_kernel.h"

namespace sinter {

/// One LLVM module on its way to PTX text. Not shared between threads.
class PtxEmitter {
 public:
  PtxEmitter(const GpuTarget& target, const std::string& name);
  llvm::Module& module() { return *module_; }
  /// Verifies, optimises and writes. Code::Internal when the IR is wrong.
  std::string ptx();

 private:
  GpuTarget target_;
  std::unique_ptr<llvm::LLVMContext> context_;
  std::unique_ptr<llvm::Module> module_;
  std::unique_ptr<llvm::TargetMachine> machine_;
};

}  // namespace sinter
