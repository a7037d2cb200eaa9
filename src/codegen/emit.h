#pragma once
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/Target/TargetMachine.h>

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "compiler/kernel/code_generator.h"

namespace sinter {

/// One LLVM module on its way to object code for one CPU target. Not shared between threads.
class Emitter {
 public:
  Emitter(const CpuTarget& target, const std::string& name);
  Emitter(Emitter&&) = default;
  ~Emitter();
  llvm::LLVMContext& context() { return *context_; }
  llvm::Module& module() { return *module_; }
  const CpuTarget& target() const { return target_; }

  /// A new function with the target's attributes, that throws nothing and calls nothing outside. `exported`: found by
  /// ObjectCode::symbol.
  llvm::Function* function(const std::string& name, llvm::FunctionType* type, bool exported);
  /// `type` returning void, of pointers and 64-bit integers: 'p' and 'i' in order.
  llvm::FunctionType* signature(const std::string& parameters);

  void optimise();  ///< verify_and_optimise
  /// An ELF relocatable object that needs no outside symbols. Code::Internal when the IR is wrong or needs one.
  std::vector<std::byte> object();
  std::string assembly();
  std::string ir();

 private:
  std::string generate(llvm::CodeGenFileType type);

  CpuTarget target_;
  std::unique_ptr<llvm::LLVMContext> context_;
  std::unique_ptr<llvm::Module> module_;
  std::unique_ptr<llvm::TargetMachine> machine_;
};

/// Verifies and optimises. Loops are neither unrolled nor vectorised: whoever writes the IR has decided that.
void verify_and_optimise(llvm::Module& module, llvm::TargetMachine& machine);

/// The flags that generated arithmetic may carry: contraction to fused multiply-add. Never nnan or ninf (NaN and infinity must
/// pass through), and not reassoc: it lets LLVM fold away the two-part constants of argument reductions, and gains nothing where
/// sums are already written with several accumulators.
llvm::FastMathFlags contract_only();

}  // namespace sinter
