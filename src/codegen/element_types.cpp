#include "codegen/element_types.h"

#include "base/error.h"

namespace sinter {

llvm::Value* ElementTypes::to_floats(DType type, V raw) {
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
llvm::Value* ElementTypes::to_small_float(V value, int exponent_bits, int mantissa_bits, uint32_t top, uint32_t nan) {
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

llvm::Value* ElementTypes::from_floats(DType type, V value) {
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

llvm::Value* ElementTypes::pair(DType type, V low, V high) {
  V first = b.CreateZExt(from_floats(type, low), b.getInt32Ty()), second = b.CreateZExt(from_floats(type, high), b.getInt32Ty());
  return b.CreateOr(first, b.CreateShl(second, b.getInt32(16)));
}

}  // namespace sinter
