#pragma once
#include <map>

#include "codegen/element_types.h"
#include "codegen/emit.h"

namespace sinter {

/// Which lanes of a vector are in use: the first `count`.
struct ActiveLanes {
  llvm::Value* count;  ///< i64
  llvm::Value* mask;   ///< one bit a lane
};

/// ElementTypes with what AVX512-BF16 adds.
class X86ElementTypes : public ElementTypes {
 public:
  X86ElementTypes(llvm::IRBuilder<>& builder, VectorMath& math, const CpuTarget& target)
      : ElementTypes(builder, math), bf16_dot_(target.bf16_dot) {}
  llvm::Value* from_floats(DType type, llvm::Value* value) override;

 private:
  bool bf16_dot_;
};

/// Emits loads and stores of f32 vectors from and to memory of any element type, on x86-64. Addresses need no alignment.
class VectorMemory {
 public:
  VectorMemory(llvm::IRBuilder<>& builder, VectorMath& math, const CpuTarget& target, llvm::BasicBlock* entry)
      : b(builder), math_(math), types_(builder, math, target), target_(target), entry_(entry) {}

  /// Elements at address, address + stride bytes, ...; `stride` null: side by side. `active` null: all lanes; the others are
  /// not read and their values mean nothing.
  llvm::Value* load(DType type, llvm::Value* address, llvm::Value* stride, const ActiveLanes* active);
  void store(DType type, llvm::Value* value, llvm::Value* address, llvm::Value* stride, const ActiveLanes* active,
             bool streaming = false);
  /// One element, in all lanes.
  llvm::Value* load_one(DType type, llvm::Value* address);
  void store_one(DType type, llvm::Value* value, llvm::Value* address);  ///< the first lane

  /// The lanes below `end` when the first one is number `begin`.
  ActiveLanes active(llvm::Value* begin, llvm::Value* end);
  /// A variable of the function; reads and writes of it become registers.
  llvm::Value* variable(llvm::Type* type);

 private:
  using V = llvm::Value*;
  bool masks(DType type) const { return target_.vector_floats == 16 || byte_size(type) >= 4; }
  V staging_buffer(DType type);
  void copy_elements(DType type, V from, V from_stride, V to, V to_stride, V count);

  llvm::IRBuilder<>& b;
  VectorMath& math_;
  X86ElementTypes types_;
  CpuTarget target_;
  llvm::BasicBlock* entry_;
  std::map<int64_t, V> buffers_;
};

/// VectorMath with what AVX-512 adds.
class X86VectorMath : public VectorMath {
 public:
  X86VectorMath(llvm::IRBuilder<>& builder, const CpuTarget& target) : VectorMath(builder, target.vector_floats) {}

 protected:
  llvm::Value* scale_by_power_of_two(llvm::Value* x, llvm::Value* n) override;
};

}  // namespace sinter
