// `./dev golden DIR`: runs every case of a directory of golden data on one backend.

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "golden/end_to_end.h"
#include "golden/golden_reader.h"
#include "golden/runner.h"
#include "golden/transformer_checks.h"

namespace sinter::golden {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Everything that checks need, opened once.
struct Run {
  std::string directory;
  Session& session;
  GraphRunner runner;
  const Arithmetic& arithmetic;
  GoldenReport& report;
  int64_t fp8_keys = 0;

  Forward forward() const { return {runner, session_runner(session, arithmetic.fp8_width(), fp8_keys), arithmetic}; }
};

struct FileCheck {
  std::string file;
  std::function<void(Run&)> run;
};

const std::vector<FileCheck>& file_checks() {
  static const std::vector<FileCheck> checks = {
      {"prompts.json", [](Run& r) { check_prompts(r.directory, r.report); }},
      {"torch_rng.safetensors", [](Run& r) { check_random(r.directory, r.report); }},
      {"sigmas.safetensors", [](Run& r) { check_sigmas(r.directory, r.report); }},
      {"samplers.safetensors", [](Run& r) { check_samplers(r.directory, r.report); }},
      {"lora_patched.safetensors", [](Run& r) { check_lora(r.directory, r.runner, r.report); }},
      {"sd15_forward.safetensors", [](Run& r) { check_sd15_forward(r.directory, r.report, r.forward()); }},
      {"sdxl_forward.safetensors", [](Run& r) { check_sdxl_forward(r.directory, r.report, r.forward()); }},
      {"flux_forward.safetensors", [](Run& r) { check_flux_forward(r.directory, r.report, r.forward()); }},
      {"conditioning.safetensors", [](Run& r) { check_conditioning(r.directory, r.session, r.report); }},
      {"e2e_sd15.safetensors", [](Run& r) { check_end_to_end(r.directory, "sd15", r.session, r.report); }},
      {"e2e_sdxl.safetensors", [](Run& r) { check_end_to_end(r.directory, "sdxl", r.session, r.report); }},
      {"e2e_flux.safetensors", [](Run& r) { check_end_to_end(r.directory, "flux", r.session, r.report); }},
  };
  return checks;
}

/// What the checks above read, and holds no cases of its own.
bool is_input(const std::string& file) {
  static const std::set<std::string> files = {"README.md",
                                              "manifest.json",
                                              "checkpoints/tiny_sd15.safetensors",
                                              "checkpoints/tiny_sdxl.safetensors",
                                              "checkpoints/tiny_flux_dev.safetensors",
                                              "checkpoints/tiny_flux_ae.safetensors",
                                              "checkpoints/tiny_t5xxl.safetensors"};
  return files.contains(file) || file.starts_with("tokenizers/") || file.starts_with("loras/") || file.starts_with("embeddings/");
}

/// Cases of families and features that come later; never of anything that exists.
bool is_not_yet(const std::string& file) {
  static const std::set<std::string> files = {"wan_forward.safetensors",
                                              "e2e_wan.safetensors",
                                              "checkpoints/tiny_wan21_t2v.safetensors",
                                              "checkpoints/tiny_wan21_vae.safetensors",
                                              "checkpoints/tiny_umt5xxl.safetensors",
                                              "training_sd15.safetensors",
                                              "training_flux.safetensors",
                                              "training_other.safetensors",
                                              "training_kohya.safetensors",
                                              "full_grad_names.json"};
  return files.contains(file) || file.starts_with("workflows/");
}

bool has_check(const std::string& file) {
  return std::any_of(file_checks().begin(), file_checks().end(), [&](const FileCheck& check) { return check.file == file; });
}

struct Directory {
  std::vector<std::string> unknown, missing;
  std::map<std::string, int> not_yet;  ///< file, or folder -> cases (1 where the manifest lists none)
};

/// Compares what lies there, and what the manifest lists, with what we know.
Directory look_at(const fs::path& path) {
  Directory out;
  for (const auto& entry : fs::recursive_directory_iterator(path, fs::directory_options::follow_directory_symlink)) {
    if (!entry.is_regular_file()) continue;
    std::string file = entry.path().lexically_relative(path).generic_string();  // links are what they are called here
    if (is_not_yet(file))
      out.not_yet.try_emplace(file.substr(0, file.starts_with("workflows/") ? file.find('/') : std::string::npos), 0);
    else if (!has_check(file) && !is_input(file))
      out.unknown.push_back(file);
  }
  if (!fs::exists(path / "manifest.json"))
    fail(Code::NotFound, "{} has no manifest.json: is it a directory of golden data?", path.string());
  const json manifest = json::parse(read_file(path / "manifest.json"));
  for (const json& entry : manifest.at("cases")) {
    std::string file = entry.at("file");
    if (is_not_yet(file))
      ++out.not_yet[file];
    else if (!has_check(file) && !is_input(file))
      out.unknown.push_back(file + " (in manifest.json)");
    else if (!fs::exists(path / file))
      out.missing.push_back(file);
  }
  for (auto* list : {&out.unknown, &out.missing}) {
    std::sort(list->begin(), list->end());
    list->erase(std::unique(list->begin(), list->end()), list->end());
  }
  return out;
}

std::string stem(const std::string& file) { return fs::path(file).stem().string(); }

void print_case(const GoldenCase& c) {
  fmt::print("{:<5} {:<70} error {:<9.2e} tolerance {:<8.1e} {}\n", c.ok ? "ok" : "FAIL", c.name, c.error, c.tolerance, c.note);
}

struct Result {
  std::vector<GoldenCase> cases;
  Directory directory;
};

/// Runs the files whose names contain `only`, and prints each file's cases when it is done. In other arithmetic than f32: those
/// with the outputs of single networks, since a whole run's errors depend on its sampler more than on it.
Result run_all(const std::string& directory, const std::string& only, const Arithmetic& arithmetic, int64_t fp8_keys,
               Session& session, bool print) {
  Result result;
  result.directory = look_at(directory);
  auto take = [&](GoldenReport report, const std::string& prefix) {
    for (GoldenCase& c : report.cases) {
      if (!prefix.empty()) c.name = prefix + ": " + c.name;
      if (print) print_case(c);
      result.cases.push_back(std::move(c));
    }
    std::fflush(stdout);
  };
  for (const FileCheck& check : file_checks()) {
    if (!arithmetic.is_f32() && check.file.find("_forward") == std::string::npos) continue;
    if (check.file.find(only) == std::string::npos || !fs::exists(fs::path(directory) / check.file)) continue;
    GoldenReport report;
    Run run{directory, session, session_runner(session), arithmetic, report, fp8_keys};
    guarded("all", report, [&] { check.run(run); });
    if (report.cases.empty()) report.fail("all", "the file has no case");
    take(std::move(report), stem(check.file));
  }
  if (!only.empty() || !arithmetic.is_f32()) return result;
  GoldenReport rest;
  for (const std::string& file : result.directory.unknown) rest.fail(file, "unknown file");
  for (const std::string& file : result.directory.missing) rest.fail(file, "listed in manifest.json, and not there");
  take(std::move(rest), "");
  return result;
}

json to_json(const Result& result) {
  json cases = json::array(), not_yet = json::array();
  for (const GoldenCase& c : result.cases)
    cases.push_back({{"name", c.name}, {"error", c.error}, {"tolerance", c.tolerance}, {"ok", c.ok}, {"note", c.note}});
  for (auto& [file, count] : result.directory.not_yet) not_yet.push_back({{"file", file}, {"cases", std::max(1, count)}});
  return {{"cases", cases}, {"not_yet", not_yet}};
}

int run(int argc, char** argv) {
  CLI::App app("Compares what we compute with what the reference software computed.", "golden");
  std::string directory, backend = "native", device = "cpu", only, dtype = "f32", attention_dtype = "auto";
  bool as_json = false;
  int threads = 0;
  app.add_option("DIR", directory, "directory laid out like shared/golden")->required();
  app.add_option("--backend", backend, "native, eager or reference")->capture_default_str();
  app.add_option("--device", device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--dtype", dtype, "f32; or the networks' outputs in bf16, f16 or fp8 (GPU), each at its stated limits")
      ->capture_default_str();
  app.add_option("--attention-dtype", attention_dtype, "auto; or fp8 with --dtype fp8, at the same limits")
      ->check(CLI::IsMember({"auto", "fp8"}));
  app.add_option("--only", only, "only files whose names contain this");
  app.add_option("--threads", threads, "0: one a core");
  app.add_flag("--json", as_json, "print one JSON object");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    return app.exit(e) == 0 ? 0 : 2;
  }
  const Arithmetic arithmetic(dtype);
  const DeviceChoice chosen = choose_device(device);
  if (arithmetic.fp8_width() > 0 && chosen.kind != DeviceChoice::Kind::Cuda)
    fail(Code::InvalidArgument, "--dtype fp8 needs --device cuda: the CPU has no such products");
  const bool fp8_attention = attention_dtype == "fp8";
  if (fp8_attention && arithmetic.fp8_width() == 0)
    fail(Code::InvalidArgument, "--attention-dtype fp8 has limits with --dtype fp8 only, not with {}", dtype);
  auto start = std::chrono::steady_clock::now();
  // Programs from earlier runs would hide what has changed since.
  Session session({.backend = parse_backend(backend), .threads = threads, .device = chosen}, {.memory_only = true});
  Result result = run_all(directory, only, arithmetic, fp8_attention ? 1 : 0, session, !as_json);
  double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  auto passed = std::count_if(result.cases.begin(), result.cases.end(), [](const GoldenCase& c) { return c.ok; });
  auto failed = int64_t(result.cases.size()) - passed;
  int not_yet = 0;
  for (auto& [file, count] : result.directory.not_yet) not_yet += std::max(1, count);
  if (as_json) {
    json object = to_json(result);
    object.update({{"backend", backend},
                   {"dtype", dtype},
                   {"directory", directory},
                   {"counts", {{"ok", passed}, {"failed", failed}, {"not_yet", not_yet}}},
                   {"seconds", seconds}});
    fmt::print("{}\n", object.dump(2, ' ', false, json::error_handler_t::replace));
  } else {
    for (auto& [file, count] : result.directory.not_yet)
      fmt::print("not yet  {}{}\n", file, count > 0 ? fmt::format(": {} cases", count) : "");
    fmt::print("{} ok, {} failed, {} not yet, on {}, {}, {}, in {:.1f} s\n", passed, failed, not_yet, backend, device, dtype,
               seconds);
  }
  return failed == 0 && passed > 0 ? 0 : 1;
}

}  // namespace
}  // namespace sinter::golden

int main(int argc, char** argv) {
  try {
    return sinter::golden::run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return 1;
  }
}
