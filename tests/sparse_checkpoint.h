#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace sinter {

/// Writes a safetensors file of real size that takes no room on the disk: zeros that were never written, of 8 or 16 bits.
inline void write_sparse_checkpoint(const std::filesystem::path& path, const std::map<std::string, std::vector<int64_t>>& shapes,
                                    DType type = DType::f8e4m3) {
  SINTER_ASSERT(type == DType::f8e4m3 || type == DType::f16);
  std::string header = "{";
  int64_t offset = 0;
  for (auto& [name, shape] : shapes) {
    std::string sizes;
    for (int64_t size : shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
    int64_t end = offset + element_count(std::span<const int64_t>(shape)) * byte_size(type);
    header += fmt::format(R"({}"{}":{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", header.size() > 1 ? "," : "", name,
                          type == DType::f16 ? "F16" : "F8_E4M3", sizes, offset, end);
    offset = end;
  }
  header += "}";
  std::string length;
  for (int i = 0; i < 8; ++i) length += char(header.size() >> (8 * i));
  write_atomically(path, length + header);
  std::filesystem::resize_file(path, 8 + header.size() + uint64_t(offset));
}

}  // namespace sinter
