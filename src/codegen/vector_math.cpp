#include "codegen/vector_math.h"

#include <llvm/IR/Intrinsics.h>

#include <limits>

#include "base/error.h"

// The polynomials are interpolations at Chebyshev nodes of the functions named, computed with 40 digits and rounded to f32.

namespace sinter {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Adding 1.5 * 2^23 leaves the nearest whole number in the low bits, for |x| < 2^22.
constexpr double kRound = 0x1.8p23, kRoundWide = 0x1.8p52;
constexpr double kLn2High = 0x1.62e43p-1, kLn2Low = -0x1.05c61p-29;

}  // namespace

llvm::Type* VectorMath::vector_of(llvm::Type* element) const {
  return lanes_ == 1 ? element : llvm::FixedVectorType::get(element, unsigned(lanes_));
}

llvm::Value* VectorMath::splat(V scalar) { return lanes_ == 1 ? scalar : b.CreateVectorSplat(unsigned(lanes_), scalar); }

llvm::Value* VectorMath::lane_numbers() {
  if (lanes_ == 1) return b.getInt32(0);
  std::vector<llvm::Constant*> numbers;
  numbers.reserve(size_t(lanes_));
  for (int i = 0; i < lanes_; ++i) numbers.push_back(b.getInt32(uint32_t(i)));
  return llvm::ConstantVector::get(numbers);
}

llvm::Value* VectorMath::call(unsigned intrinsic, V x) { return b.CreateUnaryIntrinsic(intrinsic, x); }
llvm::Value* VectorMath::fma(V x, V y, V z) { return b.CreateIntrinsic(llvm::Intrinsic::fma, {x->getType()}, {x, y, z}); }
llvm::Value* VectorMath::with_sign(V magnitude, V sign) {
  return b.CreateBinaryIntrinsic(llvm::Intrinsic::copysign, magnitude, sign);
}

llvm::Value* VectorMath::polynomial(V x, std::initializer_list<double> coefficients) {
  V value = nullptr;
  for (auto c = std::rbegin(coefficients); c != std::rend(coefficients); ++c)
    value = value ? fma(value, x, like(x, *c)) : like(x, *c);
  return value;
}

// fcmp ogt and select is one instruction on x86, and gives y where either is NaN; x's NaN is put back.
llvm::Value* VectorMath::maximum(V x, V y) {
  V larger = b.CreateSelect(b.CreateFCmpOGT(x, y), x, y);
  return b.CreateSelect(b.CreateFCmpUNO(x, x), x, larger);
}

llvm::Value* VectorMath::minimum(V x, V y) {
  return b.CreateSelect(b.CreateFCmpUNO(x, x), x, b.CreateSelect(b.CreateFCmpOLT(x, y), x, y));
}

llvm::Value* VectorMath::swap_pairs(V x) {
  std::vector<int> other;
  for (int i = 0; i < lanes_; ++i) other.push_back(i ^ 1);
  return b.CreateShuffleVector(x, other);
}

llvm::Value* VectorMath::fold_lanes(V x, V (VectorMath::*combine)(V, V)) {
  for (int half = lanes_ / 2; half >= 1; half /= 2) {
    std::vector<int> upper(static_cast<size_t>(lanes_), -1);
    for (int i = 0; i < half; ++i) upper[size_t(i)] = half + i;
    x = (this->*combine)(x, b.CreateShuffleVector(x, upper));
  }
  return lanes_ == 1 ? x : b.CreateExtractElement(x, uint64_t(0));
}
llvm::Value* VectorMath::sum_of_lanes(V x) { return fold_lanes(x, &VectorMath::add); }
llvm::Value* VectorMath::maximum_of_lanes(V x) { return fold_lanes(x, &VectorMath::maximum); }

llvm::Value* VectorMath::scale_by_power_of_two(V x, V n) {
  // In two steps, since 2^n alone may leave the range of normal numbers.
  V whole = b.CreateSub(b.CreateBitCast(b.CreateFAdd(n, constant(kRound)), ints()), int_constant(0x4b400000));
  V first = b.CreateAShr(whole, int_constant(1)), second = b.CreateSub(whole, first);
  auto power_of_two = [&](V e) {
    return b.CreateBitCast(b.CreateShl(b.CreateAdd(e, int_constant(127)), int_constant(23)), floats());
  };
  return b.CreateFMul(b.CreateFMul(x, power_of_two(first)), power_of_two(second));
}

llvm::Value* VectorMath::nearest(V x) { return call(llvm::Intrinsic::roundeven, x); }

llvm::Value* VectorMath::exp(V x) {
  // Beyond these the result is 0 or infinity anyway; NaN fails both comparisons and stays.
  x = b.CreateSelect(b.CreateFCmpOGT(x, constant(89)), constant(89), x);
  x = b.CreateSelect(b.CreateFCmpOLT(x, constant(-105)), constant(-105), x);
  V n = nearest(b.CreateFMul(x, constant(1.44269504088896341)));
  V r = fma(n, constant(-kLn2Low), fma(n, constant(-kLn2High), x));
  V tail = polynomial(r, {0.5, 1.666657627e-01, 4.166655242e-02, 8.363232948e-03, 1.392625039e-03});  // (e^r - 1 - r) / r^2
  V value = b.CreateFAdd(fma(b.CreateFMul(r, r), tail, r), constant(1));
  return scale_by_power_of_two(value, n);
}

llvm::Value* VectorMath::log(V x) {
  V tiny = b.CreateFCmpOLT(x, constant(0x1p-126));
  V normal = b.CreateSelect(tiny, b.CreateFMul(x, constant(0x1p23)), x);
  // The exponent is counted from sqrt(1/2), so that the mantissa lies in [0.707, 1.414).
  V bits = b.CreateSub(b.CreateBitCast(normal, ints()), int_constant(0x3f3504f3));
  V exponent = b.CreateSIToFP(b.CreateAShr(bits, int_constant(23)), floats());
  exponent = b.CreateFAdd(exponent, b.CreateSelect(tiny, constant(-23), constant(0)));
  V mantissa = b.CreateAdd(b.CreateAnd(bits, int_constant(0x7fffff)), int_constant(0x3f3504f3));
  V f = b.CreateFSub(b.CreateBitCast(mantissa, floats()), constant(1));
  V square = b.CreateFMul(f, f);
  V p = polynomial(f, {3.333333135e-01, -2.499999702e-01, 2.000071555e-01, -1.666780263e-01, 1.424905807e-01, -1.242568716e-01,
                       1.168541983e-01, -1.147973388e-01, 6.971611828e-02});  // (log(1 + f) - f + f^2 / 2) / f^3
  V small = fma(exponent, constant(kLn2Low), b.CreateFMul(b.CreateFMul(square, f), p));
  small = fma(square, constant(-0.5), small);
  V value = fma(exponent, constant(kLn2High), b.CreateFAdd(f, small));
  value = b.CreateSelect(b.CreateFCmpOEQ(x, constant(kInfinity)), x, value);
  value = b.CreateSelect(b.CreateFCmpOEQ(x, constant(0)), constant(-kInfinity), value);
  V no_number = b.CreateFCmpULT(x, constant(0));  // negative or NaN
  return b.CreateSelect(no_number, constant(std::numeric_limits<double>::quiet_NaN()), value);
}

llvm::Value* VectorMath::rsqrt(V x) { return b.CreateFDiv(constant(1), call(llvm::Intrinsic::sqrt, x)); }

llvm::Value* VectorMath::tanh(V x) {
  V size = call(llvm::Intrinsic::fabs, x), z = b.CreateFMul(x, x);
  V p = polynomial(z, {-3.333332837e-01, 1.333276927e-01, -5.385090783e-02, 2.099717967e-02, -6.096714176e-03});
  V near_zero = fma(b.CreateFMul(z, x), p, x);
  V e = exp(b.CreateFAdd(size, size));
  V far = b.CreateFSub(constant(1), divide(constant(2), b.CreateFAdd(e, constant(1))));
  return b.CreateSelect(b.CreateFCmpOLT(size, constant(0.625)), near_zero, with_sign(far, x));
}

llvm::Value* VectorMath::erf(V x) {
  // erf(x) / x as a quotient of polynomials in x^2 up to 3.92, where erf becomes 1 in f32: 5e-8, and no exp.
  V t = b.CreateSelect(b.CreateFCmpOGT(x, constant(3.92)), constant(3.92), x);
  t = b.CreateSelect(b.CreateFCmpOLT(t, constant(-3.92)), constant(-3.92), t);
  V z = b.CreateFMul(t, t);
  // Scaled by 1.4877, and some last places moved: of the sets tried, the one with the smallest error in f32 arithmetic.
  V above = polynomial(z, {1.678712130e+00, 2.731569111e-01, 8.095804602e-02, 5.689618643e-03, 5.829762667e-04, 7.514389836e-06,
                           -2.228922646e-08});
  V below = polynomial(z, {1.487719893e+00, 7.379862666e-01, 1.689679474e-01, 2.299345657e-02, 1.962005161e-03, 9.903691534e-05});
  V value = divide(b.CreateFMul(t, above), below);
  value = b.CreateSelect(b.CreateFCmpOGT(value, constant(1)), constant(1), value);
  return b.CreateSelect(b.CreateFCmpOLT(value, constant(-1)), constant(-1), value);
}

/// sin(x + quarter * pi / 2).
llvm::Value* VectorMath::sine(V x, int quarter) {
  // The argument is reduced in f64: exact in effect, as far as x itself says where in the circle it is.
  llvm::Type* wide = vector_of(b.getDoubleTy());
  llvm::Type* wide_ints = vector_of(b.getInt64Ty());
  V d = b.CreateFPExt(x, wide);
  V shifted = fma(d, like(d, 0.63661977236758134308), like(d, kRoundWide));
  V n = b.CreateFSub(shifted, like(d, kRoundWide));
  V r = fma(n, like(d, -0x1.1a62633145c07p-54), fma(n, like(d, -0x1.921fb54442d18p+0), d));
  // Arguments past 2^49 mean nothing; the result stays between -1 and 1.
  r = b.CreateSelect(b.CreateFCmpOGT(r, like(r, 0.8)), like(r, 0.8), r);
  r = b.CreateSelect(b.CreateFCmpOLT(r, like(r, -0.8)), like(r, -0.8), r);
  V turns = b.CreateAdd(b.CreateTrunc(b.CreateBitCast(shifted, wide_ints), ints()), int_constant(quarter));
  V angle = b.CreateFPTrunc(r, floats()), z = b.CreateFMul(angle, angle);
  V s = polynomial(z, {-1.666666716e-01, 8.333331905e-03, -1.984008413e-04, 2.724962087e-06});
  V sin_value = fma(b.CreateFMul(z, angle), s, angle);
  V c = polynomial(z, {4.166666418e-02, -1.388830133e-03, 2.454768946e-05});
  V cos_value = b.CreateFAdd(fma(b.CreateFMul(z, z), c, b.CreateFMul(z, constant(-0.5))), constant(1));
  V odd = b.CreateICmpNE(b.CreateAnd(turns, int_constant(1)), int_constant(0));
  V value = b.CreateSelect(odd, cos_value, sin_value);
  V sign = b.CreateShl(b.CreateAnd(turns, int_constant(2)), int_constant(30));
  return b.CreateBitCast(b.CreateXor(b.CreateBitCast(value, ints()), sign), floats());
}

/// log of a positive f64 that was an f32, to about 1e-12; log(0) is -infinity and log(infinity) infinity.
llvm::Value* VectorMath::log_wide(V x) {
  llvm::Type* integers = vector_of(b.getInt64Ty());
  auto whole = [&](uint64_t value) { return llvm::ConstantInt::get(integers, value); };
  uint64_t root = 0x3fe6a09e667f3bcdu;  // sqrt(1/2)
  V bits = b.CreateSub(b.CreateBitCast(x, integers), whole(root));
  V exponent = b.CreateSIToFP(b.CreateTrunc(b.CreateAShr(bits, whole(52)), ints()), x->getType());
  V mantissa = b.CreateBitCast(b.CreateAdd(b.CreateAnd(bits, whole(0xfffffffffffffu)), whole(root)), x->getType());
  V s = b.CreateFDiv(b.CreateFSub(mantissa, like(x, 1)), b.CreateFAdd(mantissa, like(x, 1)));
  V z = b.CreateFMul(s, s);
  V p = polynomial(z, {2.0, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13});  // of 2 atanh(s)
  V value = fma(exponent, like(x, 0.693147180559945309417), b.CreateFMul(s, p));
  value = b.CreateSelect(b.CreateFCmpOEQ(x, like(x, kInfinity)), x, value);
  return b.CreateSelect(b.CreateFCmpOEQ(x, like(x, 0)), like(x, -kInfinity), value);
}

llvm::Value* VectorMath::exp_wide(V x) {
  x = b.CreateSelect(b.CreateFCmpOGT(x, like(x, 100)), like(x, 100), x);
  x = b.CreateSelect(b.CreateFCmpOLT(x, like(x, -120)), like(x, -120), x);
  V shifted = fma(x, like(x, 1.44269504088896340736), like(x, kRoundWide));
  V n = b.CreateFSub(shifted, like(x, kRoundWide));
  V r = fma(n, like(x, -0.693147180559945309417), x);
  V value = polynomial(r, {1, 1, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880});
  // 2^n is a normal f64; adding to the exponent field keeps a NaN a NaN only by luck, multiplying always.
  llvm::Type* integers = vector_of(b.getInt64Ty());
  V power = b.CreateShl(b.CreateAdd(b.CreateBitCast(shifted, integers), llvm::ConstantInt::get(integers, 1023)),
                        llvm::ConstantInt::get(integers, 52));
  return b.CreateFMul(value, b.CreateBitCast(power, x->getType()));
}

llvm::Value* VectorMath::power(V x, V y) {
  // In f64: the logarithm's error is multiplied by y.
  llvm::Type* wide = vector_of(b.getDoubleTy());
  V size = call(llvm::Intrinsic::fabs, x);
  V value = b.CreateFPTrunc(exp_wide(b.CreateFMul(b.CreateFPExt(y, wide), log_wide(b.CreateFPExt(size, wide)))), floats());
  V whole = b.CreateFCmpOEQ(call(llvm::Intrinsic::floor, y), y);
  V half = b.CreateFMul(y, constant(0.5));
  V odd = b.CreateAnd(whole, b.CreateFCmpUNE(call(llvm::Intrinsic::floor, half), half));
  value = b.CreateSelect(b.CreateFCmpOEQ(size, constant(1)), constant(1), value);  // 1^infinity too
  value = b.CreateSelect(odd, with_sign(value, x), value);
  V nan = constant(std::numeric_limits<double>::quiet_NaN());
  V no_root = b.CreateAnd(b.CreateFCmpOLT(x, constant(0)), b.CreateNot(whole));
  no_root = b.CreateAnd(no_root, b.CreateFCmpOLT(size, constant(kInfinity)));
  value = b.CreateSelect(no_root, nan, value);
  V missing = b.CreateAnd(b.CreateFCmpUNO(x, y), b.CreateFCmpUNE(x, constant(1)));
  value = b.CreateSelect(missing, nan, value);
  return b.CreateSelect(b.CreateFCmpOEQ(y, constant(0)), constant(1), value);
}

llvm::Value* VectorMath::emit(Prim prim, V x, V y, V z) {
  switch (prim) {
    case Prim::add:
      return b.CreateFAdd(x, y);
    case Prim::subtract:
      return b.CreateFSub(x, y);
    case Prim::multiply:
      return b.CreateFMul(x, y);
    case Prim::divide:
      return divide(x, y);
    case Prim::maximum:
      return maximum(x, y);
    case Prim::minimum:
      return minimum(x, y);
    case Prim::power:
      return power(x, y);
    case Prim::less:
      return b.CreateSelect(b.CreateFCmpOLT(x, y), constant(1), constant(0));
    case Prim::select:
      return b.CreateSelect(b.CreateFCmpUNE(x, constant(0)), y, z);
    case Prim::negate:
      return b.CreateFNeg(x);
    case Prim::exp:
      return exp(x);
    case Prim::log:
      return log(x);
    case Prim::sqrt:
      return call(llvm::Intrinsic::sqrt, x);
    case Prim::rsqrt:
      return rsqrt(x);
    case Prim::sin:
      return sine(x, 0);
    case Prim::cos:
      return sine(x, 1);
    case Prim::tanh:
      return tanh(x);
    case Prim::erf:
      return erf(x);
    case Prim::abs:
      return call(llvm::Intrinsic::fabs, x);
    case Prim::floor:
      return call(llvm::Intrinsic::floor, x);
  }
  fail(Code::Internal, "the code generator does not know the primitive {}", int(prim));
}

}  // namespace sinter
