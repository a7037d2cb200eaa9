// Whether a run on a GPU takes the device memory that was planned for it, and keeps within a budget, in processes of its own.
#include "backends/cuda/test_device.h"
#include "half_model.h"
#include "models/synthetic_checkpoint.h"
#include "sparse_checkpoint.h"
#include "tiny_model.h"

using namespace sinter;
using nlohmann::json;

namespace {

/// Runs of half an SD1.5 on the GPU.
struct GpuRuns {
  TinyModel& tiny = TinyModel::get();
  std::string model = (tiny.folder / "half.safetensors").string();
  std::string vocabulary = (vocabulary_folder(tiny.model) / "clip").string();
  std::string lora = (tiny.folder / "lora.safetensors").string();

  GpuRuns() {
    const Shapes shapes = half_sd15();
    write_sparse_checkpoint(model, shapes, DType::f16);
    write_sparse_checkpoint(lora, attention_lora(shapes), DType::f16);
  }

  std::vector<std::string> words(std::vector<std::string> more) const {
    more.insert(more.end(),
                {"--device", "cuda", "--model", model, "--clip-vocab", vocabulary, "--width", "512", "--height", "512"});
    return tiny.words(more);
  }
  json memory(std::vector<std::string> more) const {
    CliResult result = tiny.sinter(words(std::move(more)));
    REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    return only_json(result)["memory"];
  }
};

double planned(const json& memory) { return memory["planned_peak_bytes"]["cuda:0"]; }
double measured(const json& memory) { return memory["measured_peak_bytes"]["cuda:0"]; }

}  // namespace

TEST_CASE("device memory is planned within 1 %, and kept within a budget by streaming") {
  if (!cuda::test_device()) return;
  GpuRuns runs;
  struct Case {
    std::string name, budget;
    bool streams;
    std::vector<std::string> words = {};
  };
  double whole = 0;
  for (const Case& c : {Case{"all of it", "", false},
                        {"some blocks", "0.9", true},
                        {"more blocks", "0.7", true},
                        Case{"a LoRA", "", false, {"--lora", runs.lora}},
                        Case{"a LoRA and some blocks", "0.9", true, {"--lora", runs.lora}}}) {
    CAPTURE(c.name);
    std::vector<std::string> words = c.words;
    double budget = c.budget.empty() ? 1e12 : std::stod(c.budget) * whole;
    if (!c.budget.empty()) words.insert(words.end(), {"--vram-budget", fmt::format("{:.0f}M", budget / 1e6)});
    json memory = runs.memory(words);
    if (whole == 0) whole = planned(memory);
    INFO(fmt::format("{:.0f} MB planned, {:.0f} measured, {} blocks streamed", planned(memory) / 1e6, measured(memory) / 1e6,
                     memory["streamed_blocks"].get<int>()));
    CHECK((memory["streamed_blocks"].get<int>() > 0) == c.streams);
    CHECK(planned(memory) <= budget + 1e6);
    // What the driver itself takes in pieces of 2 MB.
    constexpr double kPieces = 8e6;
    CHECK(measured(memory) < planned(memory) * 1.01 + kPieces);
    CHECK(measured(memory) > planned(memory) * 0.99 - kPieces);
  }
}

TEST_CASE("a budget that no plan keeps is refused before anything is loaded, with what is needed at the least") {
  if (!cuda::test_device()) return;
  GpuRuns runs;
  CliResult result = runs.tiny.sinter(runs.words({"--vram-budget", "60M"}));
  CHECK(result.exit_code != 0);
  CHECK(has(result.err, "at the least"));
  CHECK(has(result.err, "--vram-budget"));
}
