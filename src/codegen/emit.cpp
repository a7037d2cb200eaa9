#include "codegen/emit.h"

#include <llvm/Analysis/CGSCCPassManager.h>
#include <llvm/Analysis/LoopAnalysisManager.h>
#include <llvm/Analysis/TargetLibraryInfo.h>
#include <llvm/IR/LegacyPassManager.h>
#include <llvm/IR/Verifier.h>
#include <llvm/MC/TargetRegistry.h>
#include <llvm/Object/ObjectFile.h>
#include <llvm/Passes/PassBuilder.h>
#include <llvm/Support/TargetSelect.h>
#include <llvm/Support/raw_ostream.h>
#include <llvm/Transforms/IPO/AlwaysInliner.h>
#include <llvm/Transforms/Scalar/ADCE.h>
#include <llvm/Transforms/Scalar/EarlyCSE.h>
#include <llvm/Transforms/Scalar/InstSimplifyPass.h>
#include <llvm/Transforms/Scalar/LICM.h>
#include <llvm/Transforms/Scalar/LoopPassManager.h>
#include <llvm/Transforms/Scalar/SROA.h>
#include <llvm/Transforms/Scalar/SimplifyCFG.h>

#include <mutex>

#include "base/error.h"

namespace sinter {
namespace {

constexpr const char* kTriple = "x86_64-unknown-linux-gnu";

std::unique_ptr<llvm::TargetMachine> make_machine(const CpuTarget& target) {
  static std::once_flag once;
  std::call_once(once, [] {
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeX86AsmParser();  // for microkernel_assembly
  });
  std::string error;
  const llvm::Target* x86 = llvm::TargetRegistry::lookupTarget(kTriple, error);
  if (!x86) fail(Code::Internal, "LLVM has no x86-64 target: {}", error);
  llvm::TargetOptions options;
  options.AllowFPOpFusion = llvm::FPOpFusion::Standard;
  std::unique_ptr<llvm::TargetMachine> machine(x86->createTargetMachine(
      kTriple, target.cpu, target.features, options, llvm::Reloc::PIC_, llvm::CodeModel::Small, llvm::CodeGenOptLevel::Default));
  if (!machine) fail(Code::Internal, "LLVM refuses the target {}", target.text());
  return machine;
}

/// The object must stand alone: ObjectCode has nobody to ask for memcpy or expf.
void check_self_contained(const std::string& object) {
  llvm::MemoryBufferRef buffer(llvm::StringRef(object), "object");
  auto file = llvm::object::ObjectFile::createELFObjectFile(buffer);
  if (!file) fail(Code::Internal, "LLVM wrote an object that it cannot read: {}", llvm::toString(file.takeError()));
  for (const llvm::object::SymbolRef& symbol : (*file)->symbols()) {
    auto flags = symbol.getFlags();
    if (!flags || !(*flags & llvm::object::SymbolRef::SF_Undefined)) continue;
    auto name = symbol.getName();
    if (name && !name->empty())
      fail(Code::Internal, "generated code calls {}, which is outside of it: the IR must hold everything that it needs",
           name->str());
  }
}

}  // namespace

llvm::FastMathFlags contract_only() {
  llvm::FastMathFlags flags;
  flags.setAllowContract(true);
  return flags;
}

Emitter::Emitter(const CpuTarget& target, const std::string& name)
    : target_(target),
      context_(std::make_unique<llvm::LLVMContext>()),
      module_(std::make_unique<llvm::Module>(name, *context_)),
      machine_(make_machine(target)) {
  context_->setDiscardValueNames(true);
  module_->setTargetTriple(kTriple);
  module_->setDataLayout(machine_->createDataLayout());
  module_->setPICLevel(llvm::PICLevel::SmallPIC);
}

Emitter::~Emitter() = default;

llvm::FunctionType* Emitter::signature(const std::string& parameters) {
  std::vector<llvm::Type*> types;
  for (char p : parameters)
    types.push_back(p == 'p' ? static_cast<llvm::Type*>(llvm::PointerType::getUnqual(*context_))
                             : llvm::Type::getInt64Ty(*context_));
  return llvm::FunctionType::get(llvm::Type::getVoidTy(*context_), types, false);
}

llvm::Function* Emitter::function(const std::string& name, llvm::FunctionType* type, bool exported) {
  auto linkage = exported ? llvm::GlobalValue::ExternalLinkage : llvm::GlobalValue::InternalLinkage;
  llvm::Function* f = llvm::Function::Create(type, linkage, name, *module_);
  f->setDSOLocal(true);
  f->setDoesNotThrow();
  f->addFnAttr("target-cpu", target_.cpu);
  f->addFnAttr("target-features", target_.features);
  // Without both, LLVM splits 16-float vectors in two on CPUs whose older kin slowed down in wide registers.
  std::string bits = std::to_string(32 * target_.vector_floats);
  f->addFnAttr("prefer-vector-width", bits);
  f->addFnAttr("min-legal-vector-width", bits);
  f->addFnAttr("no-builtins");
  f->addFnAttr("frame-pointer", "none");
  return f;
}

void verify_and_optimise(llvm::Module& module, llvm::TargetMachine& machine) {
  std::string problem;
  llvm::raw_string_ostream out(problem);
  if (llvm::verifyModule(module, &out)) fail(Code::Internal, "wrong LLVM IR for {}: {}", module.getName().str(), problem);

  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager components;
  llvm::ModuleAnalysisManager modules;
  llvm::PassBuilder builder(&machine);
  llvm::TargetLibraryInfoImpl library(llvm::Triple(module.getTargetTriple()));
  library.disableAllFunctions();
  functions.registerPass([&] { return llvm::TargetLibraryAnalysis(library); });
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(components);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, components, modules);

  llvm::FunctionPassManager each;
  each.addPass(llvm::SROAPass(llvm::SROAOptions::ModifyCFG));
  each.addPass(llvm::EarlyCSEPass(true));
  each.addPass(llvm::InstSimplifyPass());
  each.addPass(llvm::createFunctionToLoopPassAdaptor(llvm::LICMPass(llvm::LICMOptions()), true));
  each.addPass(llvm::EarlyCSEPass());
  each.addPass(llvm::ADCEPass());
  each.addPass(llvm::SimplifyCFGPass());
  llvm::ModulePassManager passes;
  passes.addPass(llvm::AlwaysInlinerPass());
  passes.addPass(llvm::createModuleToFunctionPassAdaptor(std::move(each)));
  passes.run(module, modules);
}

void Emitter::optimise() { verify_and_optimise(*module_, *machine_); }

std::string Emitter::generate(llvm::CodeGenFileType type) {
  llvm::SmallString<0> bytes;
  llvm::raw_svector_ostream out(bytes);
  llvm::legacy::PassManager passes;
  if (machine_->addPassesToEmitFile(passes, out, nullptr, type, /*DisableVerify=*/true))
    fail(Code::Internal, "LLVM cannot write this kind of file for {}", target_.text());
  passes.run(*module_);
  return std::string(bytes.str());
}

std::vector<std::byte> Emitter::object() {
  std::string bytes = generate(llvm::CodeGenFileType::ObjectFile);
  check_self_contained(bytes);
  auto* data = reinterpret_cast<const std::byte*>(bytes.data());
  return {data, data + bytes.size()};
}

std::string Emitter::assembly() { return generate(llvm::CodeGenFileType::AssemblyFile); }

std::string Emitter::ir() {
  std::string text;
  llvm::raw_string_ostream out(text);
  module_->print(out, nullptr);
  return text;
}

}  // namespace sinter
