#include "io/safetensors.h"

#include <algorithm>

#include "base/error.h"

namespace sinter {

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  auto out = std::make_shared<SafetensorsFile>();
  out->file_ = MappedFile::open(path);
  out->header_ = parse_safetensors(out->file_->bytes(), out->file_->path());
  return out;
}

const SafetensorsEntry* SafetensorsFile::find(std::string_view name) const {
  auto& all = header_.entries;
  auto at = std::lower_bound(all.begin(), all.end(), name, [](auto& entry, std::string_view key) { return entry.name < key; });
  return at != all.end() && at->name == name ? &*at : nullptr;
}

Tensor SafetensorsFile::tensor(std::string_view name) const {
  const SafetensorsEntry* entry = find(name);
  if (!entry) fail(Code::NotFound, "{}: there is no tensor \"{}\"", file_->path(), name);
  return tensor(*entry);
}

Tensor SafetensorsFile::tensor(const SafetensorsEntry& entry) const {
  if (!entry.dtype)
    fail(Code::Unsupported, "{}: the tensor \"{}\" is of type {}, which is not supported; convert the file to F16 or BF16",
         file_->path(), entry.name, entry.type);
  // The mapping is read-only; Tensor has one pointer for both kinds of memory.
  auto* data = const_cast<std::byte*>(file_->bytes().data()) + entry.offset;
  return Tensor(*entry.dtype, entry.shape, data, file_);
}

std::string without_compile_marks(std::string_view name) {
  constexpr std::string_view kMark = "_orig_mod.";
  std::string out;
  out.reserve(name.size());
  // Taking one out may make another: looking at the end after every character finds it, in one pass over a name of any length.
  for (char c : name) {
    out += c;
    if (c == kMark.back() && out.ends_with(kMark)) out.resize(out.size() - kMark.size());
  }
  return out;
}

}  // namespace sinter
