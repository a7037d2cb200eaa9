#pragma once
#include "codegen/vector_math.h"
#include "tensor/dtype.h"

namespace sinter {

/// Converts between f32 vectors and the bits of elements as they lie in memory, for any target, as tensor/dtype.h's convert does.
class ElementTypes {
 public:
  ElementTypes(llvm::IRBuilder<>& builder, VectorMath& math) : b(builder), math_(math) {}
  virtual ~ElementTypes() = default;
  virtual llvm::Value* to_floats(DType type, llvm::Value* raw);
  virtual llvm::Value* from_floats(DType type, llvm::Value* value);
  /// Two 16-bit floats side by side, as an i32: `low` lies first in memory. Scalars only.
  virtual llvm::Value* pair(DType type, llvm::Value* low, llvm::Value* high);
  llvm::Type* raw_element(DType type) { return b.getIntNTy(unsigned(8 * byte_size(type))); }

 protected:
  using V = llvm::Value*;
  llvm::IRBuilder<>& b;
  VectorMath& math_;

 private:
  V to_small_float(V value, int exponent_bits, int mantissa_bits, uint32_t top, uint32_t nan);
};

}  // namespace sinter
