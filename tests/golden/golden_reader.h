#pragma once
#include <map>
#include <set>
#include <string>

#include "base/error.h"
#include "golden/report.h"
#include "io/safetensors.h"

namespace sinter::golden {

/// The tensors of one golden file, which remembers which of them were asked for.
class GoldenFile {
 public:
  explicit GoldenFile(const std::string& path) : path_(path) {
    auto file = SafetensorsFile::open(path);
    // Copies, because the file's own bytes may be unaligned.
    for (const SafetensorsEntry& entry : file->entries()) tensors_.emplace(entry.name, file->tensor(entry).clone());
  }

  const std::map<std::string, Tensor>& tensors() const { return tensors_; }
  bool has(const std::string& name) const { return tensors_.contains(name); }
  const Tensor& get(const std::string& name) {
    auto found = tensors_.find(name);
    if (found == tensors_.end()) sinter::fail(Code::NotFound, "{} has no tensor {}", path_, name);
    used_.insert(name);
    return found->second;
  }
  /// A failing case for each tensor that no check has asked for.
  void report_unused(GoldenReport& report) const {
    for (auto& [name, tensor] : tensors_)
      if (!used_.contains(name)) report.fail(name, "unknown case");
  }

 private:
  std::string path_;
  std::map<std::string, Tensor> tensors_;
  std::set<std::string> used_;
};

/// "a/b/c" -> {"a", "b", "c"}.
inline std::vector<std::string> path_parts(const std::string& name) {
  std::vector<std::string> parts(1);
  for (char c : name)
    if (c == '/')
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

/// Runs one case; an exception becomes a failing case of that name.
template <class Body>
void guarded(const std::string& name, GoldenReport& report, Body&& body) {
  try {
    body();
  } catch (const std::exception& e) {
    report.fail(name, e.what());
  }
}

}  // namespace sinter::golden
