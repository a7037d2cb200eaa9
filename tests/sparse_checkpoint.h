#pragma once
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace sinter {

/// Writes a safetensors file of real size that takes no room on the disk: 8-bit zeros that were never written.
inline void write_sparse_checkpoint(const std::filesystem::path& path,
                                    const std::map<std::string, std::vector<int64_t>>& shapes) {
  std::string header = "{";
  int64_t offset = 0;
  for (auto& [name, shape] : shapes) {
    std::string sizes;
    for (int64_t size : shape) sizes += (sizes.empty() ? "" : ",") + std::to_string(size);
    int64_t end = offset + element_count(std::span<const int64_t>(shape));
    header += fmt::format(R"({}"{}":{{"dtype":"F8_E4M3","shape":[{}],"data_offsets":[{},{}]}})", header.size() > 1 ? "," : "",
                          name, sizes, offset, end);
    offset = end;
  }
  header += "}";
  std::string length;
  for (int i = 0; i < 8; ++i) length += char(header.size() >> (8 * i));
  write_atomically(path, length + header);
  std::filesystem::resize_file(path, 8 + header.size() + uint64_t(offset));
}

}  // namespace sinter
