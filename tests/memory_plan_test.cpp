// Whether a run takes the memory that was planned for it, in processes of its own.
#include "half_model.h"
#include "models/synthetic_checkpoint.h"
#include "sparse_checkpoint.h"
#include "tiny_model.h"

using namespace sinter;
using nlohmann::json;

TEST_CASE("the measured peak is the planned one and the program itself, within 2 %") {
#if defined(__SANITIZE_ADDRESS__)
  MESSAGE("skipped: the sanitizer's own memory is measured too");
#else
  TinyModel& tiny = TinyModel::get();
  Shapes shapes = half_sd15();
  std::string model = (tiny.folder / "half.safetensors").string(), lora = (tiny.folder / "lora.safetensors").string();
  write_sparse_checkpoint(model, shapes, DType::f16);
  write_sparse_checkpoint(lora, attention_lora(shapes), DType::f16);
  write_image(tiny.folder / "start.png", Tensor(DType::f32, {256, 256, 3}));
  std::string vocabulary = (vocabulary_folder(tiny.model) / "clip").string();
  auto run = [&](std::vector<std::string> words) {
    words.insert(words.end(), {"--model", model, "--clip-vocab", vocabulary, "--steps", "1", "--threads", "4"});
    return tiny.run(words);
  };
  run({"--init", "start.png", "--out", "first.png"});  // compiles: LLVM's memory is the program's too, but less exactly

  std::string long_prompt;
  for (int i = 0; i < 500; ++i) long_prompt += "fox ";
  struct Case {
    std::string name;
    std::vector<std::string> words;
  };
  const Case cases[] = {
      {"weights and little else", {}},
      {"buffers", {"--batch", "2", "--width", "256", "--height", "256"}},
      {"the decoder needs most", {"--width", "768", "--height", "512"}},
      {"tiles", {"--width", "768", "--height", "512", "--vae-tile", "256"}},
      {"the encoder's buffers go before the denoiser comes", {"--init", "start.png", "--width", "256", "--height", "256"}},
      {"the denoiser stays for the next picture", {"--count", "2", "--width", "256", "--height", "256"}},
      {"a long prompt", {"--prompt", long_prompt, "--width", "256", "--height", "256"}},
      {"a LoRA", {"--lora", "lora.safetensors"}},
      {"weights of another type", {"--weight-dtype", "f32"}},
  };
  for (const Case& c : cases) {
    CAPTURE(c.name);
    std::vector<std::string> words = c.words;
    words.insert(words.end(), {"--out", "memory{index}.png"});
    json memory = run(words)["memory"];
    double planned = memory["planned_peak_bytes"]["cpu"], program = memory["program_bytes"]["cpu"];
    double measured = memory["measured_peak_bytes"]["cpu"];
    INFO(fmt::format("{:.0f} MB planned, {:.0f} the program, {:.0f} measured", planned / 1e6, program / 1e6, measured / 1e6));
    // Code that runs for the first time, launch lists, thread stacks, holes in the heap when a second picture is sampled: a few
    // megabytes, whatever the size of the model.
    constexpr double kGrowth = 6e6;
    CHECK(program < 120e6);  // LLVM is in it where something was compiled
    CHECK(planned > 300e6);
    CHECK(measured < (planned + program) * 1.02 + kGrowth);
    CHECK(measured > (planned + program) * 0.98);
  }
#endif
}
