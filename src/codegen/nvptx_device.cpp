#include <llvm/IR/InlineAsm.h>
#include <llvm/IR/IntrinsicsNVPTX.h>

#include "codegen/gpu_device.h"

namespace sinter {
namespace {

using V = llvm::Value*;
constexpr unsigned kGlobal = 1, kShared = 3;

V assembly(llvm::IRBuilder<>& b, llvm::Type* result, const char* text, const char* constraints, llvm::ArrayRef<V> arguments) {
  std::vector<llvm::Type*> types;
  for (V a : arguments) types.push_back(a->getType());
  auto* type = llvm::FunctionType::get(result, types, false);
  return b.CreateCall(type, llvm::InlineAsm::get(type, text, constraints, /*hasSideEffects=*/false), arguments);
}

class NvptxMath : public GpuMath {
 public:
  using GpuMath::GpuMath;

 protected:
  V exp2_of(V x) override { return b.CreateIntrinsic(llvm::Intrinsic::nvvm_ex2_approx_ftz_f, {}, {x}); }
  V quick_divide(V x, V y) override { return assembly(b, floats(), "div.full.f32 $0, $1, $2;", "=f,f,f", {x, y}); }
  V quick_rsqrt(V x) override { return b.CreateIntrinsic(llvm::Intrinsic::nvvm_rsqrt_approx_f, {}, {x}); }
};

class NvptxTypes : public ElementTypes {
 public:
  NvptxTypes(llvm::IRBuilder<>& builder, VectorMath& math, const GpuTarget& target)
      : ElementTypes(builder, math), converts_f8_(target.capability >= 90) {}

  V from_floats(DType type, V value) override {
    if (type == DType::bf16) return b.CreateTrunc(pair(type, value, math_.constant(0)), b.getInt16Ty());
    if (type == DType::f8e4m3 && converts_f8_) return to_f8(value);
    return ElementTypes::from_floats(type, value);
  }
  V pair(DType type, V low, V high) override {
    llvm::Intrinsic::ID convert = type == DType::bf16 ? llvm::Intrinsic::nvvm_ff2bf16x2_rn : llvm::Intrinsic::nvvm_ff2f16x2_rn;
    return b.CreateBitCast(b.CreateIntrinsic(convert, {}, {high, low}), b.getInt32Ty());
  }

 private:
  /// The instruction saturates; past the middle between 448 and the 480 that would come next, ours becomes NaN.
  V to_f8(V value) {
    V two = assembly(b, b.getInt16Ty(), "cvt.rn.satfinite.e4m3x2.f32 $0, $1, $2;", "=h,f,f", {math_.constant(0), value});
    V nan = b.CreateOr(two, b.getInt16(0x7f));
    V size = b.CreateUnaryIntrinsic(llvm::Intrinsic::fabs, value);
    return b.CreateTrunc(b.CreateSelect(b.CreateFCmpUGT(size, math_.constant(464)), nan, two), b.getInt8Ty());
  }

  bool converts_f8_;
};

class NvptxDevice : public GpuDevice {
 public:
  NvptxDevice(llvm::Module& module, const GpuTarget& target) : module_(module), target_(target) {}

  llvm::Function* kernel(const std::string& symbol, int slots, int threads) override {
    llvm::LLVMContext& context = module_.getContext();
    auto* type = llvm::FunctionType::get(llvm::Type::getVoidTy(context), {llvm::PointerType::getUnqual(context)}, false);
    function_ = llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, symbol, module_);
    auto* argument_type = llvm::ArrayType::get(llvm::Type::getInt64Ty(context), uint64_t(slots));
    function_->addParamAttr(0, llvm::Attribute::getWithByValType(context, argument_type));
    function_->addParamAttr(0, llvm::Attribute::getWithAlignment(context, llvm::Align(8)));
    function_->setDoesNotThrow();
    annotate("kernel", 1);
    annotate("maxntidx", threads);
    return function_;
  }

  V argument(int slot, llvm::Type* type) override {
    V at = b().CreateConstGEP1_64(b().getInt64Ty(), function_->getArg(0), uint64_t(slot));
    return b().CreateAlignedLoad(type, at, llvm::Align(8));
  }
  V thread_number() override { return b().CreateIntrinsic(llvm::Intrinsic::nvvm_read_ptx_sreg_tid_x, {}, {}); }
  V block_number() override { return b().CreateIntrinsic(llvm::Intrinsic::nvvm_read_ptx_sreg_ctaid_x, {}, {}); }
  V shuffle(V x, int distance) override {
    return b().CreateIntrinsic(llvm::Intrinsic::nvvm_shfl_sync_bfly_f32, {},
                               {b().getInt32(0xffffffffu), x, b().getInt32(uint32_t(distance)), b().getInt32(31)});
  }
  void barrier() override { b().CreateIntrinsic(llvm::Intrinsic::nvvm_barrier0, {}, {}); }
  void wait_for_operands() override {
    if (!overlaps()) return;
    auto* type = llvm::FunctionType::get(b().getVoidTy(), false);
    const char* text = "griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;";
    b().CreateCall(type, llvm::InlineAsm::get(type, text, "~{memory}", /*hasSideEffects=*/true));
  }
  bool overlaps() const override { return target_.overlaps_launches(); }
  V shared_floats(int count) override {
    auto* type = llvm::ArrayType::get(b().getFloatTy(), uint64_t(count));
    auto* memory =
        new llvm::GlobalVariable(module_, type, false, llvm::GlobalValue::InternalLinkage, llvm::UndefValue::get(type),
                                 function_->getName() + "_shared", nullptr, llvm::GlobalValue::NotThreadLocal, kShared);
    memory->setAlignment(llvm::Align(16));
    return memory;
  }
  unsigned global_space() const override { return kGlobal; }
  std::unique_ptr<VectorMath> math(GpuQuick quick) override { return std::make_unique<NvptxMath>(b(), quick); }
  std::unique_ptr<ElementTypes> types(VectorMath& math) override { return std::make_unique<NvptxTypes>(b(), math, target_); }

 private:
  void annotate(const char* what, int value) {
    llvm::LLVMContext& context = module_.getContext();
    auto* number = llvm::ConstantInt::get(llvm::Type::getInt32Ty(context), uint64_t(value));
    llvm::Metadata* parts[] = {llvm::ValueAsMetadata::get(function_), llvm::MDString::get(context, what),
                               llvm::ConstantAsMetadata::get(number)};
    module_.getOrInsertNamedMetadata("nvvm.annotations")->addOperand(llvm::MDNode::get(context, parts));
  }

  llvm::Module& module_;
  GpuTarget target_;
  llvm::Function* function_ = nullptr;
};

}  // namespace

std::unique_ptr<GpuDevice> nvptx_device(llvm::Module& module, const GpuTarget& target) {
  return std::make_unique<NvptxDevice>(module, target);
}

}  // namespace sinter
