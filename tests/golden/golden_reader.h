#pragma once
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "base/error.h"
#include "golden/report.h"
#include "tensor/tensor.h"

namespace sinter::golden {

/// The tensors of one golden file, for tests only: it trusts the file. Remembers which tensors were asked for.
class GoldenFile {
 public:
  explicit GoldenFile(const std::string& path) : path_(path) {
    std::ifstream file(path, std::ios::binary);
    uint64_t header_bytes = 0;
    if (!file.read(reinterpret_cast<char*>(&header_bytes), 8)) sinter::fail(Code::NotFound, "{} cannot be read", path);
    std::string header(header_bytes, ' ');
    file.read(header.data(), std::streamsize(header_bytes));
    const auto entries = nlohmann::json::parse(header);
    for (auto& [name, entry] : entries.items()) {
      if (name == "__metadata__") continue;
      std::string type = entry["dtype"];
      for (char& c : type) c = char(std::tolower(c));
      auto dtype = parse_dtype(type);
      if (!dtype) sinter::fail(Code::Unsupported, "{}: {} has the dtype {}", path, name, type);
      Tensor tensor(*dtype, entry["shape"].get<std::vector<int64_t>>());
      file.seekg(std::streamoff(8 + header_bytes + entry["data_offsets"][0].get<uint64_t>()));
      if (!file.read(reinterpret_cast<char*>(tensor.data()), tensor.bytes()))
        sinter::fail(Code::Corrupt, "{}: {} lies beyond the end of the file", path, name);
      tensors_.emplace(name, std::move(tensor));
    }
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
