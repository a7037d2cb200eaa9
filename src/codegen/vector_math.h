#pragma once
#include <llvm/IR/IRBuilder.h>

#include <initializer_list>

#include "graph/formula.h"

namespace sinter {

/// Emits the primitives of formulas on f32 vectors of a fixed number of lanes (1: scalars, for a GPU), inline, the same for every
/// target. NaN passes through; infinities behave as in IEC 60559. Errors, tested in row_kernel_test.cpp: exp, log, tanh and
/// power 2 units in the last place, rsqrt two roundings, sin and cos 4 units, erf 6 (sin and cos for |x| < 2^49).
class VectorMath {
 public:
  VectorMath(llvm::IRBuilder<>& builder, int lanes) : b(builder), lanes_(lanes) {}
  virtual ~VectorMath() = default;
  int lanes() const { return lanes_; }

  llvm::Value* emit(Prim prim, llvm::Value* x, llvm::Value* y, llvm::Value* z);
  virtual llvm::Value* maximum(llvm::Value* x, llvm::Value* y);
  virtual llvm::Value* minimum(llvm::Value* x, llvm::Value* y);
  /// Lanes 1, 0, 3, 2, ...; of several lanes.
  llvm::Value* swap_pairs(llvm::Value* x);
  /// All lanes into one, as a scalar.
  llvm::Value* sum_of_lanes(llvm::Value* x);
  llvm::Value* maximum_of_lanes(llvm::Value* x);

  llvm::Type* vector_of(llvm::Type* element) const;
  llvm::Type* floats() const { return vector_of(b.getFloatTy()); }
  llvm::Type* ints() const { return vector_of(b.getInt32Ty()); }
  llvm::Constant* constant(double value) const { return llvm::ConstantFP::get(floats(), value); }
  llvm::Constant* int_constant(int64_t value) const { return llvm::ConstantInt::get(ints(), uint64_t(value), true); }
  llvm::Value* splat(llvm::Value* scalar);
  /// 0, 1, 2, ... in 32-bit integers.
  llvm::Value* lane_numbers();

 protected:
  using V = llvm::Value*;
  /// x * 2^n, n whole; right also where the result is subnormal or overflows.
  virtual V scale_by_power_of_two(V x, V n);
  // What a target may do in its own way, within the same errors.
  virtual V exp(V x);
  virtual V divide(V x, V y) { return b.CreateFDiv(x, y); }
  virtual V rsqrt(V x);
  V fma(V x, V y, V z);
  llvm::IRBuilder<>& b;

 private:
  V log(V x);
  V tanh(V x);
  V erf(V x);
  V sine(V x, int quarter);
  V power(V x, V y);
  V log_wide(V x);
  V exp_wide(V x);
  V polynomial(V x, std::initializer_list<double> coefficients);
  V nearest(V x);
  V call(unsigned intrinsic, V x);
  V with_sign(V magnitude, V sign);
  V fold_lanes(V x, V (VectorMath::*combine)(V, V));
  V add(V x, V y) { return b.CreateFAdd(x, y); }
  V like(V x, double value) { return llvm::ConstantFP::get(x->getType(), value); }

  int lanes_;
};

}  // namespace sinter
