#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "tensor/tensor.h"

namespace sinter {

using Metadata = std::map<std::string, std::string>;

/// One tensor of a safetensors file.
struct SafetensorsEntry {
  std::string name;
  std::string_view type;       ///< as the file spells it: "F16", "F8_E8M0", ...
  std::optional<DType> dtype;  ///< none where we have no such element type
  std::vector<int64_t> shape;
  uint64_t offset = 0;  ///< of the first byte, from the start of the file
  uint64_t bytes = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> entries;  ///< sorted by name
  Metadata metadata;
};

/// Reads and checks the header of a file of which `file` is the whole. Every rule of the format is checked, in the order in which
/// its reference reader does, and the message ends with that reader's name of the rule; `path` is used in messages only.
/// Beyond that, equal names of tensors, metadata or fields and more than 64 axes are refused.
/// Code::Corrupt for a broken rule, Code::Unsupported for a file that is recognised as something else (zip, pickle, HTML, ...).
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, std::string_view path);

/// A safetensors file, mapped. Tensors are views of the mapping and keep it alive.
class SafetensorsFile {
 public:
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& path);

  /// Sorted by name.
  const std::vector<SafetensorsEntry>& entries() const { return header_.entries; }
  /// Null where there is no such tensor.
  const SafetensorsEntry* find(std::string_view name) const;
  const Metadata& metadata() const { return header_.metadata; }
  const MappedFile& file() const { return *file_; }

  /// A read-only view that may be unaligned. Code::NotFound; Code::Unsupported for an element type that we lack.
  Tensor tensor(std::string_view name) const;
  Tensor tensor(const SafetensorsEntry& entry) const;

 private:
  std::shared_ptr<const MappedFile> file_;
  SafetensorsHeader header_;
};

/// A tensor that is going to be written.
struct TensorDeclaration {
  std::string name;
  DType dtype = DType::f32;
  std::vector<int64_t> shape;
};

/// Takes the next bytes of one tensor, in any number of pieces.
using TensorSink = std::function<void(const void* data, size_t bytes)>;

/// Writes a file that may be larger than memory: calls `write` once for each tensor, in the order of the file (larger element
/// types first, then by name), to hand its bytes to the sink. The file appears whole or not at all.
/// Keys are written, and given to `write`, without "_orig_mod."; Code::InvalidArgument where that makes two equal, or where a
/// tensor got another number of bytes than its declaration needs.
void write_safetensors(const std::filesystem::path& path, std::vector<TensorDeclaration> declarations, const Metadata& metadata,
                       const std::function<void(const TensorDeclaration&, const TensorSink&)>& write);
void write_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                       const Metadata& metadata = {});

/// `name` without the "_orig_mod." parts that a compiling trainer leaves in keys.
std::string without_compile_marks(std::string_view name);

/// What a file of weights that is not safetensors seems to be, judged by its first bytes, and what to do; empty if unknown.
std::string describe_foreign_weights(std::span<const std::byte> file);

}  // namespace sinter
