#include "codegen/emit_ptx.h"

#include <llvm/IR/LegacyPassManager.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>

#include <mutex>

#include "base/error.h"

namespace sinter {
namespace {

constexpr const char* kTriple = "nvptx64-nvidia-cuda";

std::unique_ptr<llvm::TargetMachine> make_machine(const GpuTarget& target) {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
  });
  std::string error;
  const llvm::Target* nvptx = llvm::TargetRegistry::lookupTarget(kTriple, error);
  if (!nvptx) fail(Code::Unsupported, "this LLVM was built without the NVPTX target: {}", error);
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Standard;  // what the IR marks, no more
  std::unique_ptr<llvm::TargetMachine> machine(
      nvptx->createTargetMachine(kTriple, fmt::format("sm_{}", target.capability), fmt::format("+ptx{}", target.ptx), options,
                                 std::nullopt, std::nullopt, llvm::CodeGenOptLevel::Default));
  if (!machine) fail(Code::Internal, "LLVM refuses the target {}", target.text());
  return machine;
}

}  // namespace

PtxEmitter::PtxEmitter(const GpuTarget& target, const std::string& name)
    : target_(target),
      context_(std::make_unique<llvm::LLVMContext>()),
      module_(std::make_unique<llvm::Module>(name, *context_)),
      machine_(make_machine(target)) {
  context_->setDiscardValueNames(true);
  module_->setTargetTriple(kTriple);
  module_->setDataLayout(machine_->createDataLayout());
}

std::string PtxEmitter::ptx() {
  verify_and_optimise(*module_, *machine_);
  llvm::SmallString<0> text;
  llvm::raw_svector_ostream out(text);
  llvm::legacy::PassManager passes;
  if (machine_->addPassesToEmitFile(passes, out, nullptr, llvm::CodeGenFileType::AssemblyFile, /*DisableVerify=*/true))
    fail(Code::Internal, "LLVM cannot write PTX for {}", target_.text());
  passes.run(*module_);
  return std::string(text.str());
}

}  // namespace sinter
