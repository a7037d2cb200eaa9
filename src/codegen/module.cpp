#include "base/error.h"
#include "codegen/emit_ptx.h"
#include "codegen/generators.h"
#include "codegen/gpu_device.h"
#include "codegen/microkernel_assembly.h"

namespace sinter {
namespace {

Emitter emit(std::span<const NamedKernel> kernels, const CpuTarget& target) {
  Emitter emitter(target, "row_kernels");
  for (const NamedKernel& k : kernels)
    in_context("generating kernel " + k.symbol, [&] { add_row_kernel(emitter, k.symbol, k.kernel); });
  emitter.optimise();
  return emitter;
}

void add_all(GpuDevice& device, std::span<const NamedGpuKernel> kernels) {
  for (const NamedGpuKernel& k : kernels)
    in_context("generating kernel " + k.symbol, [&] { add_gpu_row_kernel(device, k.symbol, k.kernel, k.schedule); });
}

class LlvmGenerator : public CodeGenerator {
 public:
  std::vector<std::byte> row_kernels(std::span<const NamedKernel> kernels, const CpuTarget& target) override {
    return emit(kernels, target).object();
  }

  std::vector<std::byte> microkernels(const CpuTarget& target) override {
    Emitter emitter(target, "microkernels");
    emitter.module().setModuleInlineAsm(microkernel_assembly(target));
    return emitter.object();
  }

  std::string gpu_row_kernels(std::span<const NamedGpuKernel> kernels, const GpuTarget& target) override {
    PtxEmitter emitter(target, "row_kernels");
    add_all(*nvptx_device(emitter.module(), target), kernels);
    return emitter.ptx();
  }

  std::vector<std::byte> gpu_rehearsal(std::span<const NamedGpuKernel> kernels, const CpuTarget& target) override {
    Emitter emitter(target, "gpu_rehearsal");
    add_all(*rehearsal_device(emitter), kernels);
    emitter.optimise();
    return emitter.object();
  }

  std::string listing(std::span<const NamedKernel> kernels, const CpuTarget& target, const std::string& what) override {
    if (what != "ir" && what != "asm") fail(Code::InvalidArgument, "a listing is \"ir\" or \"asm\", not \"{}\"", what);
    Emitter emitter = emit(kernels, target);
    return what == "ir" ? emitter.ir() : emitter.assembly();
  }
};

}  // namespace
}  // namespace sinter

extern "C" sinter::CodeGenerator* sinter_code_generator() {
  static sinter::LlvmGenerator generator;
  return &generator;
}
