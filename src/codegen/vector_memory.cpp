#include "codegen/vector_memory.h"

#include <llvm/IR/IntrinsicsX86.h>

#include <limits>

#include "base/error.h"
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
    llvm::Type* vector = math_.vector_of(raw_element(type));
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
    V element = b.CreateAlignedLoad(raw_element(type), at(from, from_stride, i), llvm::Align(1));
    b.CreateAlignedStore(element, at(to, to_stride, i), llvm::Align(1));
  });
}

llvm::Value* VectorMemory::load(DType type, V address, V stride, const ActiveLanes* active) {
  llvm::Type* vector = math_.vector_of(raw_element(type));
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
  return to_floats(type, raw);
}

void VectorMemory::store(DType type, V value, V address, V stride, const ActiveLanes* active, bool streaming) {
  V raw = from_floats(type, value);
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
  return to_floats(type, math_.splat(b.CreateAlignedLoad(raw_element(type), address, llvm::Align(1))));
}

void VectorMemory::store_one(DType type, V value, V address) {
  V raw = from_floats(type, value);
  V first = math_.lanes() == 1 ? raw : b.CreateExtractElement(raw, uint64_t(0));
  b.CreateAlignedStore(first, address, llvm::Align(1));
}

llvm::Value* VectorMemory::to_floats(DType type, V raw) {
  llvm::Type* floats = math_.floats();
  auto number = [&](int64_t value) { return math_.int_constant(value); };
  switch (type) {
    case DType::f32:
      return b.CreateBitCast(raw, floats);
    case DType::f64:
      return b.CreateFPTrunc(b.CreateBitCast(raw, math_.vector_of(b.getDoubleTy())), floats);
    case DType::f16:
      return b.CreateFPExt(b.CreateBitCast(raw, math_.vector_of(b.getHalfTy())), floats);
    case DType::bf16:
      return b.CreateBitCast(b.CreateShl(b.CreateZExt(raw, math_.ints()), number(16)), floats);
    case DType::f8e5m2: {  // the upper half of an f16
      llvm::Type* shorts = math_.vector_of(b.getInt16Ty());
      V half = b.CreateShl(b.CreateZExt(raw, shorts), llvm::ConstantInt::get(shorts, 8));
      return b.CreateFPExt(b.CreateBitCast(half, math_.vector_of(b.getHalfTy())), floats);
    }
    case DType::f8e4m3: {
      V bits = b.CreateZExt(raw, math_.ints());
      V size = b.CreateAnd(bits, number(0x7f));
      V normal = b.CreateAdd(b.CreateShl(size, number(20)), number(120 << 23));
      V subnormal = b.CreateFMul(b.CreateSIToFP(size, floats), math_.constant(0x1p-9));
      V value = b.CreateSelect(b.CreateICmpULT(size, number(8)), b.CreateBitCast(subnormal, math_.ints()), normal);
      value = b.CreateSelect(b.CreateICmpEQ(size, number(0x7f)), number(0x7fc00000), value);
      V sign = b.CreateShl(b.CreateAnd(bits, number(0x80)), number(24));
      return b.CreateBitCast(b.CreateOr(value, sign), floats);
    }
    case DType::i64:
    case DType::i32:
      return b.CreateSIToFP(raw, floats);
    case DType::i16:
    case DType::i8:
      return b.CreateSIToFP(b.CreateSExt(raw, math_.ints()), floats);
    case DType::u64:
    case DType::u32:
      return b.CreateUIToFP(raw, floats);
    case DType::u16:
    case DType::u8:
      return b.CreateSIToFP(b.CreateZExt(raw, math_.ints()), floats);
    case DType::boolean:
      return b.CreateSelect(b.CreateICmpNE(raw, llvm::Constant::getNullValue(raw->getType())), math_.constant(1),
                            math_.constant(0));
  }
  fail(Code::Internal, "the code generator cannot load {}", name(type));
}

/// To nearest even, in integers: a carry out of the mantissa moves into the exponent by itself. `top`: what overflow gives.
llvm::Value* VectorMemory::to_small_float(V value, int exponent_bits, int mantissa_bits, uint32_t top, uint32_t nan) {
  auto number = [&](int64_t n) { return math_.int_constant(n); };
  int shift = 23 - mantissa_bits, bias = (1 << (exponent_bits - 1)) - 1;
  V bits = b.CreateBitCast(value, math_.ints());
  V size = b.CreateAnd(bits, number(0x7fffffff));
  V odd = b.CreateAnd(b.CreateLShr(size, number(shift)), number(1));
  V rounded = b.CreateAdd(b.CreateAdd(size, number((1 << (shift - 1)) - 1)), odd);
  V normal = b.CreateSub(b.CreateLShr(rounded, number(shift)), number((127 - bias) << mantissa_bits));
  // Adding a number whose last place is the smallest subnormal lets the adder round.
  float anchor = __builtin_bit_cast(float, uint32_t(127 + 1 - bias + shift) << 23);
  V sum = b.CreateFAdd(b.CreateBitCast(size, math_.floats()), math_.constant(anchor));
  V subnormal = b.CreateSub(b.CreateBitCast(sum, math_.ints()), number(__builtin_bit_cast(int32_t, anchor)));
  V small = b.CreateSelect(b.CreateICmpULT(size, number(int64_t(127 + 1 - bias) << 23)), subnormal, normal);
  small = b.CreateSelect(b.CreateICmpUGT(small, number(top)), number(top), small);
  small = b.CreateSelect(b.CreateICmpUGT(size, number(0x7f800000)), number(nan), small);
  V sign = b.CreateAnd(b.CreateLShr(bits, number(24)), number(0x80));
  return b.CreateTrunc(b.CreateOr(small, sign), math_.vector_of(b.getInt8Ty()));
}

llvm::Value* VectorMemory::from_floats(DType type, V value) {
  llvm::Type* raw = math_.vector_of(raw_element(type));
  auto number = [&](int64_t n) { return math_.int_constant(n); };
  switch (type) {
    case DType::f32:
      return b.CreateBitCast(value, raw);
    case DType::f64:
      return b.CreateBitCast(b.CreateFPExt(value, math_.vector_of(b.getDoubleTy())), raw);
    case DType::f16:
      return b.CreateBitCast(b.CreateFPTrunc(value, math_.vector_of(b.getHalfTy())), raw);
    case DType::bf16: {
      if (target_.bf16_dot) {  // one instruction; the only difference is that it turns subnormals into 0
        llvm::Type* result = math_.vector_of(b.getBFloatTy());
        return b.CreateBitCast(b.CreateIntrinsic(result, llvm::Intrinsic::x86_avx512bf16_cvtneps2bf16_512, {value}), raw);
      }
      V bits = b.CreateBitCast(value, math_.ints());
      V odd = b.CreateAnd(b.CreateLShr(bits, number(16)), number(1));
      V rounded = b.CreateAdd(b.CreateAdd(bits, number(0x7fff)), odd);
      V chosen = b.CreateSelect(b.CreateFCmpUNO(value, value), b.CreateOr(bits, number(0x400000)), rounded);
      return b.CreateTrunc(b.CreateLShr(chosen, number(16)), raw);
    }
    case DType::f8e4m3:
      return to_small_float(value, 4, 3, 0x7f, 0x7f);
    case DType::f8e5m2:
      return to_small_float(value, 5, 2, 0x7c, 0x7e);
    case DType::i64:
    case DType::i32:
    case DType::i16:
    case DType::i8:
      return b.CreateIntrinsic(llvm::Intrinsic::fptosi_sat, {raw, value->getType()}, {value});
    case DType::u64:
    case DType::u32:
    case DType::u16:
    case DType::u8:
      return b.CreateIntrinsic(llvm::Intrinsic::fptoui_sat, {raw, value->getType()}, {value});
    case DType::boolean:
      return b.CreateZExt(b.CreateFCmpUNE(value, math_.constant(0)), raw);
  }
  fail(Code::Internal, "the code generator cannot store {}", name(type));
}

}  // namespace sinter
