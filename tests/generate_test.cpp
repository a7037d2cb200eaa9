// What `sinter generate` makes, in processes of its own. How it fails is in generate_failure_test.cpp.
#include <array>
#include <cmath>
#include <csignal>
#include <fstream>
#include <thread>

#include "tiny_model.h"

namespace fs = std::filesystem;
using namespace sinter;
using nlohmann::json;

namespace {

/// The largest difference of two pictures, in levels of 255.
double levels_apart(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double most = 0;
  for (size_t i = 0; i < a.f32().size(); ++i) most = std::max(most, double(std::fabs(a.f32()[i] - b.f32()[i])));
  return std::round(most * 255);
}

/// Mean difference, in levels of 255.
double mean_levels_apart(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double sum = 0;
  for (size_t i = 0; i < a.f32().size(); ++i) sum += std::fabs(a.f32()[i] - b.f32()[i]);
  return sum * 255 / double(a.count());
}

/// A LoRA for one attention layer of the tiny U-Net, with kohya's keys.
void write_lora(const TinyModel& tiny, const fs::path& path) {
  auto weight =
      SafetensorsFile::open(tiny.model)->tensor("model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight");
  constexpr int64_t kRank = 2;
  Tensor down(DType::f32, {kRank, weight.dim(1)}), up(DType::f32, {weight.dim(0), kRank});
  for (size_t i = 0; i < down.f32().size(); ++i) down.f32()[i] = std::sin(float(i));
  for (size_t i = 0; i < up.f32().size(); ++i) up.f32()[i] = std::cos(float(i));
  std::string module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
  write_safetensors(path, {{module + ".lora_down.weight", down},
                           {module + ".lora_up.weight", up},
                           {module + ".alpha", Tensor::of({}, std::array{float(kRank)})}});
}

/// Waits until a run has said this on standard error.
bool says(const Cli& sinter, const std::string& text) {
  for (int i = 0; i < 1000; ++i) {
    if (has(sinter.errors(), text)) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

/// Whether LLVM is in the memory of a run that is in the midst of sampling.
bool loads_llvm(const Cli& sinter, std::vector<std::string> words) {
  pid_t child = sinter.start(std::move(words));
  bool begun = says(sinter, "memory: ");
  ::kill(child, SIGSTOP);
  std::ifstream maps("/proc/" + std::to_string(child) + "/maps");
  std::string text((std::istreambuf_iterator<char>(maps)), {});
  ::kill(child, SIGINT);
  ::kill(child, SIGCONT);
  CliResult result = sinter.finish(child);
  REQUIRE_MESSAGE(begun, result.err);
  REQUIRE(has(text, "libsinter.so"));
  return has(text, "libLLVM");
}

}  // namespace

TEST_CASE("a second process compiles nothing and makes the same picture, byte for byte") {
  TinyModel& tiny = TinyModel::get();
  json second = tiny.run({"--out", "second.png"});
  CHECK(second["compile"]["compiled"] == 0);
  CHECK(second["compile"]["needed"].get<int>() > 10);
  CHECK(second["compile"]["needed"] == second["compile"]["cached"]);
  CHECK(tiny.bytes("second.png") == tiny.bytes("warm.png"));
  CHECK(second["images"] == json{"second.png"});
  CHECK(second["seed"] == 5);
  CHECK(second["timing"]["step_milliseconds"].size() == 2);
  for (const char* name : {"start_to_first_step_seconds", "load_seconds", "text_seconds", "decode_seconds", "total_seconds"})
    CHECK_MESSAGE(second["timing"][name].is_number(), name);
  CHECK(second["memory"]["planned_peak_bytes"]["cpu"].get<int64_t>() > 1'000'000);
  CHECK(second["memory"]["measured_peak_bytes"]["cpu"].get<int64_t>() > 1'000'000);
}

TEST_CASE("nothing that a user turns from picture to picture compiles anything") {
  TinyModel& tiny = TinyModel::get();
  write_lora(tiny, tiny.folder / "l.safetensors");
  std::string plain = tiny.bytes("warm.png");
  struct Change {
    const char* name;
    std::vector<std::string> words;
  };
  std::set<std::string> pictures{plain};
  std::vector<Change> changes = {
      {"size", {"--width", "96", "--height", "40"}},
      {"prompt", {"--prompt", "two (blue:1.4) foxes"}},
      {"long prompt",
       {"--prompt",
        [] {
          std::string text;
          for (int i = 0; i < 100; ++i) text += "fox ";
          return text;
        }()}},
      {"negative", {"--negative", "grass"}},
      {"seed", {"--seed", "6"}},
      {"largest seed", {"--seed", "18446744073709551615"}},
      {"cfg", {"--cfg", "3.5"}},
      {"no guidance", {"--cfg", "1"}},
      {"steps", {"--steps", "3"}},
      {"sampler", {"--sampler", "dpmpp_2m"}},
      {"sampler that needs the negative prompt", {"--sampler", "euler_cfg_pp", "--cfg", "1"}},
      {"scheduler", {"--scheduler", "karras"}},
      {"clip skip", {"--clip-skip", "2"}},
      {"LoRA", {"--lora", "l.safetensors"}},
      {"LoRA strength", {"--lora", "l.safetensors:0.5"}},
      {"tiles", {"--vae-tile", "128", "--width", "160"}},
  };
  for (const Change& change : changes) {
    CAPTURE(change.name);
    std::vector<std::string> words = change.words;
    words.insert(words.end(), {"--out", "change.png"});
    if (change.name != std::string("clip skip"))
      CHECK(tiny.compiled(words) == 0);
    else
      tiny.run(words);                                        // another depth is another network
    CHECK(pictures.insert(tiny.bytes("change.png")).second);  // and every one of them does something
  }
  CHECK(tiny.compiled({"--lora", "l.safetensors:0", "--out", "zero.png"}) == 0);
  CHECK(levels_apart(tiny.pixels("zero.png"), tiny.pixels("warm.png")) == 0);
}

TEST_CASE("with --dynamic false each size has its own programs, kept for the next time") {
  TinyModel& tiny = TinyModel::get();
  CHECK(tiny.compiled({"--dynamic", "false", "--out", "fixed.png"}) > 0);
  CHECK(tiny.compiled({"--dynamic", "false", "--out", "fixed.png"}) == 0);
  CHECK(tiny.compiled({"--dynamic", "false", "--out", "wide.png", "--width", "72"}) > 0);
  CHECK(levels_apart(tiny.pixels("fixed.png"), tiny.pixels("warm.png")) <= 1);
}

TEST_CASE("the first picture of a batch is the picture of its seed, and the others are others") {
  TinyModel& tiny = TinyModel::get();
  json batch = tiny.run({"--batch", "2", "--out", "batch.png"});
  CHECK(batch["compile"]["compiled"] == 0);
  REQUIRE(batch["images"] == json{"batch_00001.png", "batch_00002.png"});
  // Work is divided among threads by what there is, so the last bits of sums differ; random weights amplify them, to 3 levels in
  // a single value here. Another seed gives far more.
  CHECK(levels_apart(tiny.pixels("batch_00001.png"), tiny.pixels("warm.png")) <= 4);
  CHECK(levels_apart(tiny.pixels("batch_00002.png"), tiny.pixels("warm.png")) > 8);
}

TEST_CASE("--count makes runs with the seeds that follow, named by number and seed, and never replaces a picture with {index}") {
  TinyModel& tiny = TinyModel::get();
  json runs = tiny.run({"--count", "2", "--seed", "4", "--out", "n{index}_s{seed}.png"});
  REQUIRE(runs["images"] == json{"n00001_s4.png", "n00001_s5.png"});
  CHECK(levels_apart(tiny.pixels("n00001_s5.png"), tiny.pixels("warm.png")) == 0);
  CHECK(runs["timing"]["step_milliseconds"].size() == 4);
  for (const char* name : {"i00001.png", "i00002.png", "i00003.png"})
    CHECK(tiny.run({"--steps", "1", "--out", "i{index}.png"})["images"] == json{name});
}

TEST_CASE("every backend makes the same picture, to one level of 255") {
  TinyModel& tiny = TinyModel::get();
  // Guidance multiplies what rounding differs by; so without it.
  tiny.run({"--cfg", "1", "--out", "native.png"});
  for (const std::string backend : {"eager", "reference", "inductor"}) {
    CAPTURE(backend);
    tiny.run({"--backend", backend, "--cfg", "1", "--out", "backend.png"});
    CHECK(levels_apart(tiny.pixels("backend.png"), tiny.pixels("native.png")) <= 1);
    CHECK(mean_levels_apart(tiny.pixels("backend.png"), tiny.pixels("native.png")) < 0.05);
  }
}

TEST_CASE("a picture of any size is a start, and strength says how much of it goes") {
  TinyModel& tiny = TinyModel::get();
  Tensor start(DType::f32, {50, 130, 3});
  for (int64_t i = 0; i < start.count(); ++i) start.f32()[size_t(i)] = float(i % 130) / 130;
  write_image(tiny.folder / "start.png", start);
  auto from_start = [&](const std::string& strength, const std::string& out) {
    return tiny.run({"--init", "start.png", "--strength", strength, "--steps", "4", "--out", out});
  };
  from_start("0.3", "weak.png");
  CHECK(from_start("0.3", "weak2.png")["compile"]["compiled"] == 0);
  from_start("0.9", "strong.png");
  from_start("0", "none.png");
  CHECK(tiny.pixels("weak.png").shape() == std::vector<int64_t>{64, 64, 3});
  CHECK(tiny.bytes("weak.png") == tiny.bytes("weak2.png"));
  double weak = mean_levels_apart(tiny.pixels("weak.png"), tiny.pixels("none.png"));
  CHECK(weak > 0.1);
  CHECK(mean_levels_apart(tiny.pixels("strong.png"), tiny.pixels("none.png")) > weak);
  CHECK(has(tiny.parameters("weak.png"), "Denoising strength: 0.3"));
  // Without sizes the picture's own are taken, cut to multiples of 8.
  CliResult own = tiny.sinter(
      {"generate", "--model", tiny.model, "--prompt", "x", "--init", "start.png", "--steps", "1", "--out", "own.png"});
  REQUIRE_MESSAGE(own.exit_code == 0, own.err);
  CHECK(tiny.pixels("own.png").shape() == std::vector<int64_t>{48, 128, 3});
}

TEST_CASE("PNG, JPEG and WebP carry the parameters that other tools read") {
  TinyModel& tiny = TinyModel::get();
  for (const char* name : {"t.png", "t.jpg", "t.jpeg", "t.webp"}) {
    CAPTURE(name);
    tiny.run({"--prompt", "fox, größer 狐", "--negative", "grass", "--out", name});
    std::string text = tiny.parameters(name);
    CHECK(text.starts_with("fox, größer 狐\nNegative prompt: grass\nSteps: 2, Sampler: "));
    CHECK_MESSAGE(has(text, "Seed: 5, Size: 64x64, Model: m"), text);
    CHECK(tiny.pixels(name).shape() == std::vector<int64_t>{64, 64, 3});
  }
  tiny.run({"--prompt", "a red fox", "--out", "exact.webp", "--lossless"});
  CHECK(levels_apart(tiny.pixels("exact.webp"), tiny.pixels("warm.png")) == 0);
}

TEST_CASE("a run from a full cache never loads LLVM, and a run that compiles does") {
  TinyModel& tiny = TinyModel::get();
  auto endless = tiny.words({"--steps", "10000", "--out", "endless.png"});
  CHECK(!loads_llvm(tiny.sinter, endless));
  endless.push_back("--no-cache");
  CHECK(loads_llvm(tiny.sinter, endless));
}

TEST_CASE("options that do nothing here are named") {
  TinyModel& tiny = TinyModel::get();
  CliResult result = tiny.sinter(tiny.words(
      {"--guidance", "3", "--strength", "0.5", "--lossless", "--cfg", "1", "--negative", "x", "--attention-dtype", "fp8"}));
  REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  for (const char* option : {"--guidance", "--strength", "--lossless", "--negative", "--attention-dtype fp8"})
    CHECK_MESSAGE(has(result.err, std::string("note: ") + option + " has no effect"), option);
}
