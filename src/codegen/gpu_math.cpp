#include "codegen/gpu_math.h"

namespace sinter {

// One instruction each; NaN passes through.
llvm::Value* GpuMath::maximum(V x, V y) { return b.CreateBinaryIntrinsic(llvm::Intrinsic::maximum, x, y); }
llvm::Value* GpuMath::minimum(V x, V y) { return b.CreateBinaryIntrinsic(llvm::Intrinsic::minimum, x, y); }

/// 2^n * 2^f with n whole and f = x log2(e) - n small, except where the result leaves the range of normal numbers: there n stays
/// at its end, and f takes the rest. NaN and infinities survive in f.
llvm::Value* GpuMath::exp(V x) {
  if (!quick_.functions) return VectorMath::exp(x);
  constexpr double kLog2E = 1.44269502162933349609375, kLog2ERest = 1.92596299112661746887e-8;
  constexpr double kRound = 0x1.8p23 + 127;  // leaves n + 127 in the low bits
  V whole = b.CreateBinaryIntrinsic(llvm::Intrinsic::maxnum, b.CreateFMul(x, constant(kLog2E)), constant(-126));
  whole = b.CreateBinaryIntrinsic(llvm::Intrinsic::minnum, whole, constant(127));
  V shifted = b.CreateFAdd(whole, constant(kRound)), n = b.CreateFSub(shifted, constant(kRound));
  V f = fma(x, constant(kLog2ERest), fma(x, constant(kLog2E), b.CreateFNeg(n)));
  V power = b.CreateBitCast(b.CreateShl(b.CreateBitCast(shifted, ints()), int_constant(23)), floats());
  return b.CreateFMul(exp2_of(f), power);
}

}  // namespace sinter
