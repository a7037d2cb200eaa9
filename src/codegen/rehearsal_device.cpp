#include "codegen/gpu_device.h"

namespace sinter {
namespace {

using V = llvm::Value*;

/// A field of the GpuRehearsal that a function gets as its second argument.
V field(llvm::IRBuilder<>& b, V machine, size_t offset, llvm::Type* type) {
  return b.CreateLoad(type, b.CreatePtrAdd(machine, b.getInt64(offset)));
}
V call_machine(llvm::IRBuilder<>& b, V machine, size_t function, llvm::Type* result, llvm::ArrayRef<V> arguments) {
  std::vector<llvm::Type*> types;
  for (V a : arguments) types.push_back(a->getType());
  return b.CreateCall(llvm::FunctionType::get(result, types, false), field(b, machine, function, b.getPtrTy()), arguments);
}

class RehearsalMath : public GpuMath {
 public:
  RehearsalMath(llvm::IRBuilder<>& builder, GpuQuick quick, V machine) : GpuMath(builder, quick), machine_(machine) {}

 protected:
  V exp2_of(V x) override { return call_machine(b, machine_, offsetof(GpuRehearsal, exp2), floats(), {x}); }
  V quick_divide(V x, V y) override { return VectorMath::divide(x, y); }
  V quick_rsqrt(V x) override { return VectorMath::rsqrt(x); }

 private:
  V machine_;
};

class RehearsalDevice : public GpuDevice {
 public:
  explicit RehearsalDevice(Emitter& emitter) : emitter_(emitter) {}

  llvm::Function* kernel(const std::string& symbol, int, int) override {
    function_ = emitter_.function(symbol, emitter_.signature("pp"), true);
    return function_;
  }
  V argument(int slot, llvm::Type* type) override {
    return b().CreateAlignedLoad(type, b().CreateConstGEP1_64(b().getInt64Ty(), function_->getArg(0), uint64_t(slot)),
                                 llvm::Align(8));
  }
  V thread_number() override { return field(b(), machine(), offsetof(GpuRehearsal, thread), b().getInt32Ty()); }
  V block_number() override { return field(b(), machine(), offsetof(GpuRehearsal, block), b().getInt32Ty()); }
  V shuffle(V x, int distance) override {
    return call_machine(b(), machine(), offsetof(GpuRehearsal, shuffle), b().getFloatTy(),
                        {machine(), x, b().getInt32(uint32_t(distance))});
  }
  void barrier() override { call_machine(b(), machine(), offsetof(GpuRehearsal, barrier), b().getVoidTy(), {machine()}); }
  void wait_for_operands() override {}
  bool overlaps() const override { return false; }
  V shared_floats(int) override { return field(b(), machine(), offsetof(GpuRehearsal, shared), b().getPtrTy()); }
  unsigned global_space() const override { return 0; }
  std::unique_ptr<VectorMath> math(GpuQuick quick) override { return std::make_unique<RehearsalMath>(b(), quick, machine()); }
  std::unique_ptr<ElementTypes> types(VectorMath& math) override { return std::make_unique<ElementTypes>(b(), math); }

 private:
  V machine() { return function_->getArg(1); }

  Emitter& emitter_;
  llvm::Function* function_ = nullptr;
};

}  // namespace

std::unique_ptr<GpuDevice> rehearsal_device(Emitter& emitter) { return std::make_unique<RehearsalDevice>(emitter); }

}  // namespace sinter
