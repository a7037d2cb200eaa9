#pragma once
#include <map>
#include <set>
#include <string>
#include <vector>

#include "cli.h"
#include "io/image.h"
#include "io/safetensors.h"

namespace sinter {

inline bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// A folder with a tiny SD1.5 model of random weights and what belongs to it, made once for each test file, and a cache that
/// holds all programs of a 64x64 run. Tests that need a cache of their own make one.
struct TinyModel {
  TemporaryFolder folder;
  Cli sinter{folder};
  std::string model = (folder / "m.safetensors").string();

  TinyModel() {
    REQUIRE(sinter({"synth", "--family", "sd15", "--tiny", "--out", model}).exit_code == 0);
    CliResult first = sinter(words({"--out", "warm.png"}));
    REQUIRE_MESSAGE(first.exit_code == 0, first.err);
  }

  static TinyModel& get() {
    static TinyModel made;
    return made;
  }

  /// A quick run, on the CPU wherever it is; options in `more` are added, or replace those given here.
  std::vector<std::string> words(const std::vector<std::string>& more = {}) const {
    std::map<std::string, std::string> usual = {{"--model", model}, {"--prompt", "a red fox"}, {"--width", "64"},
                                                {"--height", "64"}, {"--steps", "2"},          {"--seed", "5"},
                                                {"--threads", "2"}, {"--out", "p.png"},        {"--device", "cpu"}};
    for (const std::string& word : more) usual.erase(word);
    std::vector<std::string> all{"generate", "--json"};
    for (const auto& [option, value] : usual) all.insert(all.end(), {option, value});
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }

  /// The JSON of a run that must succeed.
  nlohmann::json run(const std::vector<std::string>& more = {}) const {
    CliResult result = sinter(words(more));
    REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    return only_json(result);
  }

  /// How many programs a run compiled.
  int compiled(const std::vector<std::string>& more = {}) const { return run(more)["compile"]["compiled"].get<int>(); }

  std::string bytes(const std::string& name) const { return read_file(folder / name); }
  Tensor pixels(const std::string& name) const { return read_image(folder / name).pixels; }
  std::string parameters(const std::string& name) const {
    for (const auto& [key, text] : read_image_text(folder / name))
      if (key == "parameters") return text;
    return "";
  }

  std::map<std::string, Tensor> tensors() const {
    auto file = SafetensorsFile::open(model);
    std::map<std::string, Tensor> all;
    for (const auto& entry : file->entries()) all[entry.name] = file->tensor(entry);
    return all;
  }
  Metadata metadata() const { return SafetensorsFile::open(model)->metadata(); }

  /// Pictures and their temporary files under this name or name beginning; empty where a failed run left nothing.
  std::set<std::string> left(const std::string& beginning) const {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
      if (has(entry.path().filename().string(), beginning)) names.insert(entry.path().filename().string());
    return names;
  }
};

}  // namespace sinter
