#include "codegen/vector_memory.h"

#include <llvm/IR/IntrinsicsX86.h>

#include "codegen/loops.h"

namespace sinter {

llvm::Value* X86VectorMath::scale_by_power_of_two(llvm::Value* x, llvm::Value* n) {
  if (lanes() != 16) return VectorMath::scale_by_power_of_two(x, n);
  constexpr int kCurrentRounding = 4;
  return b.CreateIntrinsic(llvm::Intrinsic::x86_avx512_mask_scalef_ps_512, {},
                           {x, n, llvm::Constant::getNullValue(floats()), b.getInt16(0xffff), b.getInt32(kCurrentRounding)});
}

llvm::Value* VectorMemory::variable(llvm::Type* type) {
  llvm::IRBuilder<> at_entry(entry_, entry_->begin());
  return at_entry.CreateAlloca(type);
}

ActiveLanes VectorMemory::active(V begin, V end) {
  V left = b.CreateSub(end, begin);
  V lanes = b.getInt64(uint64_t(math_.lanes()));
  V count = b.CreateSelect(b.CreateICmpSLT(left, lanes), left, lanes);
  V mask = b.CreateICmpSLT(math_.lane_numbers(), math_.splat(b.CreateTrunc(count, b.getInt32Ty())));
  return {count, mask};
}

/// A vector in memory, through which elements go that no instruction gathers: zero at first, so that unused lanes are defined.
llvm::Value* VectorMemory::staging_buffer(DType type) {
  V& buffer = buffers_[byte_size(type)];
  if (!buffer) {
    llvm::IRBuilder<> at_entry(entry_, entry_->begin());
    llvm::Type* vector = math_.vector_of(types_.raw_element(type));
    llvm::AllocaInst* memory = at_entry.CreateAlloca(vector);
    memory->setAlignment(llvm::Align(64));
    at_entry.CreateStore(llvm::Constant::getNullValue(vector), memory);
    buffer = memory;
  }
  return buffer;
}

void VectorMemory::copy_elements(DType type, V from, V from_stride, V to, V to_stride, V count) {
  V side_by_side = b.getInt64(uint64_t(byte_size(type)));
  auto at = [&](V base, V stride, V i) { return b.CreatePtrAdd(base, b.CreateMul(i, stride ? stride : side_by_side)); };
  emit_loop(b, b.getInt64(0), count, 1, [&](V i) {
    V element = b.CreateAlignedLoad(types_.raw_element(type), at(from, from_stride, i), llvm::Align(1));
    b.CreateAlignedStore(element, at(to, to_stride, i), llvm::Align(1));
  });
}

llvm::Value* VectorMemory::load(DType type, V address, V stride, const ActiveLanes* active) {
  llvm::Type* vector = math_.vector_of(types_.raw_element(type));
  V raw;
  if (stride || (active && !masks(type))) {
    V buffer = staging_buffer(type);
    copy_elements(type, address, stride, buffer, nullptr, active ? active->count : b.getInt64(uint64_t(math_.lanes())));
    raw = b.CreateAlignedLoad(vector, buffer, llvm::Align(64));
  } else if (active) {
    raw = b.CreateMaskedLoad(vector, address, llvm::Align(1), active->mask, llvm::Constant::getNullValue(vector));
  } else {
    raw = b.CreateAlignedLoad(vector, address, llvm::Align(1));
  }
  return types_.to_floats(type, raw);
}

void VectorMemory::store(DType type, V value, V address, V stride, const ActiveLanes* active, bool streaming) {
  V raw = types_.from_floats(type, value);
  if (stride || (active && !masks(type))) {
    V buffer = staging_buffer(type);
    b.CreateAlignedStore(raw, buffer, llvm::Align(64));
    copy_elements(type, buffer, nullptr, address, stride, active ? active->count : b.getInt64(uint64_t(math_.lanes())));
  } else if (active) {
    b.CreateMaskedStore(raw, address, llvm::Align(1), active->mask);
  } else {
    llvm::StoreInst* store = b.CreateAlignedStore(raw, address, llvm::Align(1));
    if (streaming) {
      store->setAlignment(llvm::Align(uint64_t(byte_size(type)) * uint64_t(math_.lanes())));
      llvm::Metadata* one = llvm::ConstantAsMetadata::get(b.getInt32(1));
      store->setMetadata(llvm::LLVMContext::MD_nontemporal, llvm::MDNode::get(b.getContext(), one));
    }
  }
}

llvm::Value* VectorMemory::load_one(DType type, V address) {
  return types_.to_floats(type, math_.splat(b.CreateAlignedLoad(types_.raw_element(type), address, llvm::Align(1))));
}

void VectorMemory::store_one(DType type, V value, V address) {
  V raw = types_.from_floats(type, value);
  V first = math_.lanes() == 1 ? raw : b.CreateExtractElement(raw, uint64_t(0));
  b.CreateAlignedStore(first, address, llvm::Align(1));
}

llvm::Value* X86ElementTypes::from_floats(DType type, V value) {
  if (type != DType::bf16 || !bf16_dot_) return ElementTypes::from_floats(type, value);
  // One instruction; the only difference is that it turns subnormals into 0.
  llvm::Type* result = math_.vector_of(b.getBFloatTy());
  V converted = b.CreateIntrinsic(result, llvm::Intrinsic::x86_avx512bf16_cvtneps2bf16_512, {value});
  return b.CreateBitCast(converted, math_.vector_of(raw_element(type)));
}

}  // namespace sinter
