#pragma once
#include <string>
#include <vector>

namespace sinter::golden {

/// One comparison of what we compute with what the reference computed.
struct GoldenCase {
  std::string name;
  double error = 0;
  double tolerance = 0;
  bool ok = false;
  std::string note;  ///< what went wrong, where the error alone does not say it
};

struct GoldenReport {
  std::vector<GoldenCase> cases;

  void compare(std::string name, double error, double tolerance) {
    cases.push_back({std::move(name), error, tolerance, error <= tolerance, {}});
  }
  void fail(std::string name, std::string note) { cases.push_back({std::move(name), 0, 0, false, std::move(note)}); }
};

/// Each reads its file in `directory`, runs every case in it and accounts for every tensor: one that no check knows is a failing
/// case "unknown case".
void check_random(const std::string& directory, GoldenReport& report);    ///< torch_rng.safetensors
void check_sigmas(const std::string& directory, GoldenReport& report);    ///< sigmas.safetensors
void check_samplers(const std::string& directory, GoldenReport& report);  ///< samplers.safetensors, with manifest.json

void check_prompts(const std::string& directory, GoldenReport& report);  ///< prompts.json, with tokenizers/

}  // namespace sinter::golden
