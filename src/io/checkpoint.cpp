#include "io/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The largest published indices are a few megabytes; read, they take some thirty times as much memory.
constexpr uint64_t kIndexLimit = 32'000'000;
constexpr const char* kBaseNames[] = {"diffusion_pytorch_model", "model"};

/// A folder that may not be looked into counts as one without the file; opening it says why.
bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(), [](unsigned char c) { return char(std::tolower(c)); });
  return text;
}

/// JSON in which no object has a key twice: the document tree itself would keep one of them silently.
json parse_without_equal_keys(const std::string& text, const std::string& path) {
  std::vector<std::set<std::string>> open;  // the keys of each object that is not finished
  auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (depth > 64) fail(Code::Corrupt, "{}: the JSON is nested too deep", path);
    if (event == json::parse_event_t::object_start) open.push_back({});
    if (event == json::parse_event_t::object_end) open.pop_back();
    if (event == json::parse_event_t::key && !open.back().insert(value.get<std::string>()).second)
      fail(Code::Corrupt, "{}: the key \"{}\" stands there twice", path, value.get<std::string>());
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& e) {
    fail(Code::Corrupt, "{}: not JSON: {}", path, e.what());
  }
}

/// A shard is named relative to its index and may not lead out of that folder. Links are followed: model caches consist of them.
fs::path shard_path(const fs::path& index, const std::string& tensor, const std::string& shard) {
  fs::path relative(shard);
  bool leads_out = shard.empty() || shard.find('\0') != std::string::npos || shard.find('\\') != std::string::npos ||
                   relative.is_absolute() || std::find(relative.begin(), relative.end(), "..") != relative.end();
  if (leads_out)
    fail(Code::Corrupt, "{}: the tensor \"{}\" is in \"{}\", where a file inside the index's folder was expected", index.string(),
         tensor, shard);
  if (lower(relative.extension()) != ".safetensors")
    fail(Code::Unsupported, "{}: the shard \"{}\" is no safetensors file; convert it to safetensors", index.string(), shard);
  return (index.parent_path() / relative).lexically_normal();
}

/// Which file holds which tensor, as the index says.
std::map<std::string, fs::path> read_index(const fs::path& path) {
  json index = parse_without_equal_keys(read_file(path, kIndexLimit), path.string());
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    fail(Code::Corrupt, "{}: an object with a \"weight_map\" object was expected", path.string());
  std::map<std::string, fs::path> out;
  for (auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string()) fail(Code::Corrupt, "{}: the weight_map gives the tensor \"{}\" no file name", path.string(), tensor);
    out[tensor] = shard_path(path, tensor, shard.get<std::string>());
  }
  if (out.empty()) fail(Code::Corrupt, "{}: the weight_map is empty", path.string());
  return out;
}

bool is_index(const fs::path& path) {
  std::string name = path.filename();
  return name.ends_with(".json") && name.find(".safetensors.index") != std::string::npos;
}

void refuse_other_formats(const fs::path& path) {
  std::string extension = lower(path.extension());
  for (const char* other : {".ckpt", ".pt", ".pth", ".bin", ".gguf", ".pkl", ".onnx", ".h5", ".msgpack"})
    if (extension == other)
      fail(Code::Unsupported, "{}: {} files are not supported; convert it to safetensors", path.string(), other);
  if (extension == ".json")
    fail(Code::Unsupported, "{}: of JSON files only an index, NAME.safetensors.index.json, can be opened as a checkpoint",
         path.string());
}

/// The names under which a component folder may hold its weights, in the order in which they are preferred.
std::vector<std::string> component_names(const std::string& variant) {
  std::vector<std::string> out;
  std::string dotted = variant.empty() ? "" : "." + variant;
  for (const char* base : kBaseNames) out.push_back(base + dotted + ".safetensors");
  for (const char* base : kBaseNames) {
    out.push_back(base + std::string(".safetensors.index") + dotted + ".json");
    if (!variant.empty()) out.push_back(base + dotted + ".safetensors.index.json");
  }
  return out;
}

std::optional<fs::path> find_component(const fs::path& folder, const std::string& variant) {
  for (auto& name : component_names(variant))
    if (is_there(folder / name)) return folder / name;
  return std::nullopt;
}

/// Says why a folder has no weights that can be opened.
[[noreturn]] void refuse_folder(const fs::path& folder, const std::string& variant) {
  if (is_there(folder / "model_index.json"))
    fail(Code::InvalidArgument, "{}: this is a whole diffusers pipeline; open one of its component folders (unet, vae, ...)",
         folder.string());
  if (!variant.empty() && find_component(folder, ""))
    fail(Code::NotFound, "{}: there are no weights of the variant \"{}\", only plain ones; leave the variant out",
         folder.string(), variant);
  for (const char* old : {"diffusion_pytorch_model.bin", "pytorch_model.bin", "model.bin"})
    if (is_there(folder / old))
      fail(Code::Unsupported, "{}: the weights are in {}, which is not supported; convert it to safetensors", folder.string(),
           old);
  fail(Code::NotFound, "{}: the folder has no weights; expected one of {}", folder.string(),
       fmt::join(component_names(variant), ", "));
}

}  // namespace

Checkpoint Checkpoint::open(const fs::path& path, const std::string& variant) {
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    if (is_index(path)) return open_index(path);
    refuse_other_formats(path);
    return open_files(path, {path});
  }
  auto file = find_component(path, variant);
  if (!file && variant.empty()) file = find_component(path, "fp16");
  if (!file) refuse_folder(path, variant);
  Checkpoint out = is_index(*file) ? open_index(*file) : open_files(*file, {*file});
  auto files = std::make_shared<Files>(*out.files_);
  files->path = path;
  out.files_ = std::move(files);
  return out;
}

Checkpoint Checkpoint::open_index(const fs::path& path) {
  std::map<std::string, fs::path> places = read_index(path);
  std::set<fs::path> shards;
  for (auto& [tensor, shard] : places) shards.insert(shard);
  for (auto& shard : shards)
    if (!is_there(shard))
      fail(Code::NotFound, "{}: the shard {} is missing; fetch it into the same folder", path.string(),
           shard.filename().string());
  Checkpoint out = open_files(path, {shards.begin(), shards.end()});
  for (auto& [tensor, shard] : places) {
    const Entry* entry = out.look_up(without_compile_marks(tensor));
    if (!entry || entry->tensor->name != tensor || entry->file->file().path() != shard.string())
      fail(Code::Corrupt, "{}: the tensor \"{}\" is not in {}, where the index says it is", path.string(), tensor,
           shard.filename().string());
  }
  return out;
}

Checkpoint Checkpoint::open_files(const fs::path& path, const std::vector<fs::path>& files) {
  auto opened = std::make_shared<Files>();
  opened->path = path;
  Checkpoint out;
  for (auto& name : files) {
    auto file = SafetensorsFile::open(name);
    for (auto& tensor : file->entries()) out.entries_.push_back({without_compile_marks(tensor.name), file.get(), &tensor});
    opened->metadata.insert(file->metadata().begin(), file->metadata().end());
    opened->files.push_back(std::move(file));
  }
  out.files_ = std::move(opened);
  auto& all = out.entries_;
  std::stable_sort(all.begin(), all.end(), [](auto& a, auto& b) { return a.name < b.name; });
  auto twice = std::adjacent_find(all.begin(), all.end(), [](auto& a, auto& b) { return a.name == b.name; });
  if (twice == all.end()) return out;
  const Entry &first = twice[0], &second = twice[1];
  if (first.file == second.file)
    fail(Code::Corrupt, "{}: the tensors \"{}\" and \"{}\" have the same name when \"_orig_mod.\" is left out", path.string(),
         first.tensor->name, second.tensor->name);
  fail(Code::Corrupt, "{}: the tensor \"{}\" is in both {} and {}", path.string(), first.name,
       fs::path(first.file->file().path()).filename().string(), fs::path(second.file->file().path()).filename().string());
}

const Checkpoint::Entry* Checkpoint::look_up(std::string_view name) const {
  auto at = std::lower_bound(entries_.begin(), entries_.end(), name,
                             [](const Entry& entry, std::string_view key) { return entry.name < key; });
  return at != entries_.end() && at->name == name ? &*at : nullptr;
}

const Checkpoint::Entry& Checkpoint::get(std::string_view name) const {
  const Entry* entry = look_up(name);
  if (!entry) fail(Code::NotFound, "{}: there is no tensor \"{}\"", path().string(), name);
  return *entry;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> out;
  out.reserve(entries_.size());
  for (auto& entry : entries_) out.push_back(entry.name);
  return out;
}

std::optional<TensorInfo> Checkpoint::find(std::string_view name) const {
  const Entry* entry = look_up(name);
  if (!entry) return std::nullopt;
  const SafetensorsEntry& tensor = *entry->tensor;
  return TensorInfo{tensor.dtype, tensor.type, tensor.shape, tensor.bytes, entry->file->file().path()};
}

Tensor Checkpoint::tensor(std::string_view name) const {
  const Entry& entry = get(name);
  return entry.file->tensor(*entry.tensor);
}

void Checkpoint::drop(std::string_view name) const {
  const Entry& entry = get(name);
  entry.file->file().drop(entry.tensor->offset, entry.tensor->bytes);
}

void Checkpoint::drop(const Tensor& view) const {
  if (!files_ || view.empty()) return;
  for (const auto& file : files_->files) {
    std::span<const std::byte> mapped = file->file().bytes();
    bool inside = std::greater_equal<>()(view.data(), mapped.data()) && std::less<>()(view.data(), mapped.data() + mapped.size());
    if (inside) file->file().drop(size_t(view.data() - mapped.data()), size_t(view.bytes()));
  }
}

void Checkpoint::will_need(std::string_view name) const {
  const Entry& entry = get(name);
  entry.file->file().will_need(entry.tensor->offset, entry.tensor->bytes);
}

const Metadata& Checkpoint::metadata() const { return files_->metadata; }
const fs::path& Checkpoint::path() const { return files_->path; }

std::vector<FileIdentity> Checkpoint::files() const {
  std::vector<FileIdentity> out;
  for (auto& file : files_->files) out.push_back(file->file().identity());
  return out;
}

Digest Checkpoint::identity() const {
  Hasher hasher;
  for (auto& file : files()) hasher.add(file.digest());
  return hasher.digest();
}

Checkpoint Checkpoint::prefix(std::string_view prefix) const {
  Checkpoint out;
  out.files_ = files_;
  for (auto& entry : entries_)
    if (entry.name.starts_with(prefix)) out.entries_.push_back({entry.name.substr(prefix.size()), entry.file, entry.tensor});
  return out;
}

}  // namespace sinter
