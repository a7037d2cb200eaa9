#include "codegen/gpu_memory.h"

namespace sinter {

llvm::Type* GpuMemory::access_type(DType type, int access) {
  unsigned bytes = unsigned(byte_size(type)), total = bytes * unsigned(access);
  if (total <= 8 && bytes != 4 && total != 8) return b.getIntNTy(8 * total);
  unsigned word = bytes == 8 ? 8 : 4;
  llvm::Type* element = b.getIntNTy(8 * word);
  return total == word ? element : llvm::FixedVectorType::get(element, total / word);
}

llvm::Value* GpuMemory::load_access(DType type, V address, int access, bool read_only) {
  llvm::LoadInst* load = b.CreateAlignedLoad(access_type(type, access), address, llvm::Align(uint64_t(byte_size(type) * access)));
  if (read_only) load->setMetadata(llvm::LLVMContext::MD_invariant_load, llvm::MDNode::get(b.getContext(), {}));
  return load;
}

GpuMemory::Packed GpuMemory::load(DType type, V address, int count, int access, bool read_only) {
  Packed packed{type, access, {}};
  for (int i = 0; i < count; i += access)
    packed.parts.push_back(
        load_access(type, b.CreateConstGEP1_64(b.getInt8Ty(), address, uint64_t(i * byte_size(type))), access, read_only));
  return packed;
}

GpuMemory::Packed GpuMemory::load_strided(DType type, V address, V stride, int count, bool read_only) {
  Packed packed{type, 1, {}};
  for (int i = 0; i < count; ++i) {
    packed.parts.push_back(load_access(type, address, 1, read_only));
    if (i + 1 < count) address = b.CreatePtrAdd(address, stride);
  }
  return packed;
}

llvm::Value* GpuMemory::element(const Packed& packed, int i) {
  V part = packed.parts[size_t(i / packed.access)];
  int bytes = int(byte_size(packed.type)), at = i % packed.access;
  int word = bytes == 8 ? 8 : 4, words = packed.access * bytes / word;
  if (words > 1) {
    part = b.CreateExtractElement(part, uint64_t(at * bytes / word));
    at %= word / bytes;
  }
  if (at > 0) part = b.CreateLShr(part, uint64_t(8 * bytes * at));
  return types_.to_floats(packed.type, b.CreateTrunc(part, types_.raw_element(packed.type)));
}

void GpuMemory::store_access(DType type, const V* values, V address, int access) {
  int bytes = int(byte_size(type));
  llvm::Type* whole = access_type(type, access);
  llvm::Type* word = whole->getScalarType();
  int per_word = int(word->getScalarSizeInBits()) / (8 * bytes);
  bool pairs = (type == DType::bf16 || type == DType::f16) && per_word == 2;
  V result = whole->isVectorTy() ? llvm::PoisonValue::get(whole) : nullptr;
  for (int w = 0; w * per_word < access; ++w) {
    const V* first = values + w * per_word;
    V packed = pairs ? types_.pair(type, first[0], first[1]) : nullptr;
    for (int i = 0; i < per_word && !pairs; ++i) {
      V bits = b.CreateZExt(types_.from_floats(type, first[i]), word);
      packed = packed ? b.CreateOr(packed, b.CreateShl(bits, uint64_t(8 * bytes * i))) : bits;
    }
    result = result ? b.CreateInsertElement(result, packed, uint64_t(w)) : packed;
  }
  b.CreateAlignedStore(result, address, llvm::Align(uint64_t(bytes * access)));
}

void GpuMemory::store(DType type, const std::vector<V>& values, V address, int access) {
  for (int i = 0; i < int(values.size()); i += access)
    store_access(type, &values[size_t(i)], b.CreateConstGEP1_64(b.getInt8Ty(), address, uint64_t(i * byte_size(type))), access);
}

void GpuMemory::store_strided(DType type, const std::vector<V>& values, V address, V stride) {
  for (const V& value : values) {
    store_access(type, &value, address, 1);
    if (&value != &values.back()) address = b.CreatePtrAdd(address, stride);
  }
}

}  // namespace sinter
