#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/utf8.h"
#include "io/safetensors.h"
#include "io/safetensors_types.h"

namespace sinter {
namespace {

std::string_view type_name(DType dtype) {
  for (auto& type : kSafetensorsTypes)
    if (type.dtype == dtype) return type.name;
  fail(Code::Internal, "safetensors has no name for {}", name(dtype));
}

uint64_t byte_count(const TensorDeclaration& tensor) {
  int64_t bytes;
  if (__builtin_mul_overflow(element_count(tensor.shape), byte_size(tensor.dtype), &bytes))
    fail(Code::InvalidArgument, "the tensor \"{}\" {} has too many bytes to count", tensor.name, shape_text(tensor.shape));
  return uint64_t(bytes);
}

std::string quoted(const std::string& text, std::string_view what) {
  if (!is_utf8(text)) fail(Code::InvalidArgument, "{} is not UTF-8, and safetensors holds nothing else", what);
  return nlohmann::json(text).dump();
}

std::string entry_text(const TensorDeclaration& tensor, uint64_t begin, uint64_t end) {
  std::string shape;
  for (int64_t size : tensor.shape) shape += fmt::format("{}{}", shape.empty() ? "" : ",", size);
  return fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", quoted(tensor.name, "the name of a tensor"),
                     type_name(tensor.dtype), shape, begin, end);
}

std::string metadata_text(const Metadata& metadata) {
  std::string out;
  for (auto& [key, value] : metadata)
    out += fmt::format("{}{}:{}", out.empty() ? "" : ",", quoted(key, "a metadata key"),
                       quoted(value, fmt::format("the metadata entry \"{}\"", key)));
  return fmt::format("\"{}\":{{{}}}", kSafetensorsMetadataKey, out);
}

/// The length, the JSON, and spaces so that the data start at a multiple of 8.
std::string header_of(std::span<const TensorDeclaration> tensors, const Metadata& metadata) {
  std::string json = "{";
  if (!metadata.empty()) json += metadata_text(metadata);
  uint64_t at = 0;
  for (auto& tensor : tensors) {
    if (json.size() > 1) json += ',';
    uint64_t end;
    if (__builtin_add_overflow(at, byte_count(tensor), &end))
      fail(Code::InvalidArgument, "the tensors have too many bytes to count");
    json += entry_text(tensor, at, end);
    at = end;
  }
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (json.size() > kSafetensorsHeaderLimit)
    fail(Code::InvalidArgument, "the header would have {} bytes, and safetensors allows {}: write fewer tensors or less metadata",
         json.size(), kSafetensorsHeaderLimit);
  std::string out;
  for (int i = 0; i < 8; ++i) out += char(uint64_t(json.size()) >> (8 * i));
  return out + json;
}

/// Strips the names, and sorts as the reference writer does: larger element types first, then by name.
void prepare(std::vector<TensorDeclaration>& tensors) {
  for (auto& tensor : tensors) {
    tensor.name = without_compile_marks(tensor.name);
    if (tensor.name == kSafetensorsMetadataKey)
      fail(Code::InvalidArgument, "a tensor cannot be called {}: safetensors uses that name itself", kSafetensorsMetadataKey);
  }
  std::sort(tensors.begin(), tensors.end(), [](auto& a, auto& b) {
    return std::pair(-byte_size(a.dtype), std::string_view(a.name)) < std::pair(-byte_size(b.dtype), std::string_view(b.name));
  });
}

void refuse_equal_names(std::span<const TensorDeclaration> tensors) {
  std::vector<std::string_view> names;
  for (auto& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end())
    fail(Code::InvalidArgument, "two tensors are called \"{}\" (\"_orig_mod.\" does not count); rename one", *twice);
}

}  // namespace

void write_safetensors(const std::filesystem::path& path, std::vector<TensorDeclaration> declarations, const Metadata& metadata,
                       const std::function<void(const TensorDeclaration&, const TensorSink&)>& write) {
  in_context(fmt::format("writing {}", path.string()), [&] {
    prepare(declarations);
    refuse_equal_names(declarations);
    std::string header = header_of(declarations, metadata);
    uint64_t total = header.size();
    for (auto& tensor : declarations) total += byte_count(tensor);

    // Checkpoints are gigabytes: what a killed process left of one must not fill the disk for ever.
    remove_stale_temporaries(path.has_parent_path() ? path.parent_path() : ".");
    AtomicFile file(path);
    file.reserve(total);
    file.write(header);
    for (auto& tensor : declarations) {
      uint64_t left = byte_count(tensor);
      write(tensor, [&](const void* data, size_t bytes) {
        if (bytes > left) fail(Code::InvalidArgument, "the tensor \"{}\" got {} bytes too many", tensor.name, bytes - left);
        file.write(data, bytes);
        left -= bytes;
      });
      if (left != 0) fail(Code::InvalidArgument, "the tensor \"{}\" got {} bytes too few", tensor.name, left);
    }
    file.commit();
  });
}

void write_safetensors(const std::filesystem::path& path, const std::map<std::string, Tensor>& tensors,
                       const Metadata& metadata) {
  std::vector<TensorDeclaration> declarations;
  std::map<std::string, const Tensor*, std::less<>> by_name;
  for (auto& [name, tensor] : tensors) {
    if (tensor.empty()) fail(Code::InvalidArgument, "the tensor \"{}\" has no data to write", name);
    declarations.push_back({name, tensor.dtype(), tensor.shape()});
    by_name[without_compile_marks(name)] = &tensor;  // equal ones are refused below
  }
  write_safetensors(path, std::move(declarations), metadata, [&](const TensorDeclaration& declaration, const TensorSink& sink) {
    const Tensor& tensor = *by_name.at(declaration.name);
    sink(tensor.data(), size_t(tensor.bytes()));
  });
}

}  // namespace sinter
