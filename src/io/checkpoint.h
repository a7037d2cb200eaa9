#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace sinter {

/// What a checkpoint knows about one tensor without reading it.
struct TensorInfo {
  std::optional<DType> dtype;  ///< none where we have no such element type
  std::string_view type;       ///< as the file spells it
  std::vector<int64_t> shape;
  uint64_t bytes = 0;
  std::string file;  ///< the path of the file that holds it
};

/// One or several safetensors files seen as one table of tensors. Keys are presented without "_orig_mod.". Cheap to copy.
class Checkpoint {
 public:
  /// Opens one of
  ///  - a safetensors file;
  ///  - an index of shards, `*.safetensors.index.json`, with the shards in its folder;
  ///  - a component folder of a diffusers pipeline: diffusion_pytorch_model or model, as one file or as an index.
  /// `variant` ("fp16") picks those files of a folder; without it the plain ones are taken, and fp16 where nothing else is there.
  /// Code::NotFound, Code::Corrupt for shards that do not fit their index, Code::Unsupported for other formats.
  static Checkpoint open(const std::filesystem::path& path, const std::string& variant = "");

  /// Sorted.
  std::vector<std::string> names() const;
  size_t size() const { return entries_.size(); }
  bool has(std::string_view name) const { return look_up(name) != nullptr; }
  std::optional<TensorInfo> find(std::string_view name) const;
  /// A view of the mapped file. Code::NotFound; Code::Unsupported for an element type that we lack.
  Tensor tensor(std::string_view name) const;
  /// Gives back the memory that reading this tensor took; its content stays readable.
  void drop(std::string_view name) const;
  /// The same for a view of one of the files; nothing happens for any other tensor.
  void drop(const Tensor& view) const;
  /// Starts reading this tensor in the background.
  void will_need(std::string_view name) const;

  /// Of all files together; where two shards give different values for a key, that of the first shard by name.
  const Metadata& metadata() const;
  /// What was opened: the file, the index or the folder.
  const std::filesystem::path& path() const;
  /// Changes when any of the files is replaced (see FileIdentity).
  Digest identity() const;
  std::vector<FileIdentity> files() const;

  /// The tensors whose names start with `prefix`, under names without it. May be empty.
  Checkpoint prefix(std::string_view prefix) const;

 private:
  struct Entry {
    std::string name;
    const SafetensorsFile* file;
    const SafetensorsEntry* tensor;
  };
  struct Files {
    std::filesystem::path path;
    std::vector<std::shared_ptr<const SafetensorsFile>> files;
    Metadata metadata;
  };

  static Checkpoint open_files(const std::filesystem::path& path, const std::vector<std::filesystem::path>& files);
  static Checkpoint open_index(const std::filesystem::path& path);
  const Entry* look_up(std::string_view name) const;
  const Entry& get(std::string_view name) const;

  std::shared_ptr<const Files> files_;
  std::vector<Entry> entries_;  // sorted by name
};

}  // namespace sinter
