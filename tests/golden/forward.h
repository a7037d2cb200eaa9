#pragma once
#include <string>
#include <vector>

#include "golden/arithmetic.h"

namespace sinter::golden {

/// What checks of networks share: the folder, one opened file of it, what is known of that file, who runs, where results go.
struct ForwardCheck {
  const std::string& directory;
  GoldenFile& file;
  KnownKeys& known;
  const GraphRunner& run;
  const GraphRunner& run_denoiser;
  const Arithmetic& arithmetic;
  GoldenReport& report;

  /// Reads a tensor and marks it as known.
  const Tensor& get(const std::string& name) const {
    known.add(name);
    return file.get(name);
  }
  /// "unet" -> "unet/0/", "unet/1/", ... for the cases that the file has.
  std::vector<std::string> cases(const std::string& group) const {
    std::vector<std::string> found;
    for (auto& [name, tensor] : file.tensors()) {
      auto parts = path_parts(name);
      if (parts.size() < 3 || parts[0] != group) continue;
      std::string prefix = parts[0] + "/" + parts[1] + "/";
      if (found.empty() || found.back() != prefix) found.push_back(prefix);
    }
    return found;
  }
  /// Compares an output with the recorded one of this name.
  void compare(const std::string& name, const Tensor& output, Part part, double f32_limit) const {
    report.compare(name, relative_error(output.to(DType::f32), get(name)), arithmetic.limit(part, f32_limit));
  }
  /// Block traces are for finding faults by hand; they count as known where a check has looked at the output.
  void know_block_trace(const std::string& prefix) const { known.add(prefix + "block_trace"); }
};

// Whole files: every case in them is run, and a tensor that no check knows is a failing case "unknown case".

/// All networks on `run`, denoisers on `run_denoiser`, which may have layers in f8e4m3.
struct Forward {
  GraphRunner run, run_denoiser = run;
  Arithmetic arithmetic{};
};
void check_sd15_forward(const std::string& directory, GoldenReport& report, const Forward& on);
void check_sdxl_forward(const std::string& directory, GoldenReport& report, const Forward& on);
void check_flux_forward(const std::string& directory, GoldenReport& report, const Forward& on);

}  // namespace sinter::golden
