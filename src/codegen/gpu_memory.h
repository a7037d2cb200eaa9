#pragma once
#include "codegen/element_types.h"

namespace sinter {

/// Loads and stores `vector` neighbouring elements of an operand with as few accesses as its alignment allows. Loaded bits stay
/// packed in 32-bit words until an element is asked for.
class GpuMemory {
 public:
  using V = llvm::Value*;
  GpuMemory(llvm::IRBuilder<>& builder, ElementTypes& types, unsigned space) : b(builder), types_(types), space_(space) {}

  /// What one load gave: accesses of `access` elements each.
  struct Packed {
    DType type;
    int access = 1;
    std::vector<V> parts;
  };

  /// `read_only`: nothing writes there while the kernel runs.
  Packed load(DType type, V address, int count, int access, bool read_only);
  Packed load_strided(DType type, V address, V stride, int count, bool read_only);
  V element(const Packed& packed, int i);
  void store(DType type, const std::vector<V>& values, V address, int access);
  void store_strided(DType type, const std::vector<V>& values, V address, V stride);

  V pointer(V address) { return b.CreateIntToPtr(address, b.getPtrTy(space_)); }

 private:
  /// Of one access: i8, i16, or vectors of i32 or i64.
  llvm::Type* access_type(DType type, int access);
  V load_access(DType type, V address, int access, bool read_only);
  void store_access(DType type, const V* values, V address, int access);

  llvm::IRBuilder<>& b;
  ElementTypes& types_;
  unsigned space_;
};

}  // namespace sinter
