#pragma once
#include "codegen/vector_math.h"

namespace sinter {

/// What a kernel may compute with the functions of the hardware, which are right to 2 units in the last place.
struct GpuQuick {
  bool quotients = false;  ///< x / y; else rounded correctly
  bool functions = false;  ///< exponentials and square roots; else as on the CPU
};

/// VectorMath for GPUs, on scalars: with the functions that the hardware has where they may be quick, still within a few units in
/// the last place. What those functions are, a device says.
class GpuMath : public VectorMath {
 public:
  GpuMath(llvm::IRBuilder<>& builder, GpuQuick quick) : VectorMath(builder, 1), quick_(quick) {}
  llvm::Value* maximum(llvm::Value* x, llvm::Value* y) override;
  llvm::Value* minimum(llvm::Value* x, llvm::Value* y) override;

 protected:
  V exp(V x) override;
  V divide(V x, V y) override { return quick_.quotients ? quick_divide(x, y) : VectorMath::divide(x, y); }
  V rsqrt(V x) override { return quick_.functions ? quick_rsqrt(x) : VectorMath::rsqrt(x); }

  virtual V exp2_of(V x) = 0;            ///< to about 2^-22 of the result, results below 2^-126 may be 0
  virtual V quick_divide(V x, V y) = 0;  ///< to 2 units in the last place
  virtual V quick_rsqrt(V x) = 0;        ///< to 2 units in the last place

 private:
  GpuQuick quick_;
};

}  // namespace sinter
