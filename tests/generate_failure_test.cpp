// What `sinter generate` says and leaves where something is wrong: a clear error, a code, one JSON object, and no picture.
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <limits>
#include <random>
#include <thread>

#include "interrupted.h"
#include "patience.h"
#include "tiny_model.h"

namespace fs = std::filesystem;
using namespace sinter;
using nlohmann::json;

namespace {

/// A run that must fail with these words, and leave nothing under the name "bad".
CliResult refused(const TinyModel& tiny, const std::vector<std::string>& words, const std::string& message, int exit_code,
                  const std::function<void()>& prepare = {}) {
  std::vector<std::string> all = words;
  if (std::find(words.begin(), words.end(), "--out") == words.end()) all.insert(all.end(), {"--out", "bad.png"});
  CliResult result = tiny.sinter(tiny.words(all), prepare);
  CAPTURE(message);
  CHECK(result.exit_code == exit_code);
  json error = only_json(result)["error"];
  CHECK_MESSAGE(has(error["message"].get<std::string>(), message), error["message"].get<std::string>());
  CHECK(has(result.err, "error: "));
  CHECK(tiny.left("bad").empty());
  return result;
}

/// All files of the cache under `from`, in a folder of their own.
fs::path copy_of_cache(const TinyModel& tiny, const TemporaryFolder& to) {
  fs::copy(tiny.folder / "cache", to / "cache", fs::copy_options::recursive);
  return to / "cache";
}

std::vector<fs::path> entries(const fs::path& cache) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::recursive_directory_iterator(cache / "entries"))
    if (entry.is_regular_file()) files.push_back(entry.path());
  return files;
}

/// A run with another cache directory; must succeed with the known picture. How many programs it compiled.
int survives(const TinyModel& tiny, const fs::path& cache, const std::string& what) {
  CAPTURE(what);
  CliResult result = Cli(tiny.folder, cache)(tiny.words({"--out", "survived.png"}));
  REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  CHECK(tiny.bytes("survived.png") == tiny.bytes("warm.png"));
  return only_json(result)["compile"]["compiled"];
}

}  // namespace

TEST_CASE("options out of range are refused before anything is read, with what would be right") {
  TinyModel& tiny = TinyModel::get();
  struct Mistake {
    std::vector<std::string> words;
    std::string message;
  };
  for (const Mistake& mistake : {
           Mistake{{"--width", "100"}, "--width 100 is not a multiple of 8; the nearest are 96 and 104"},
           Mistake{{"--height", "63"}, "--height 63 is not a multiple of 8"},
           Mistake{{"--width", "0"}, "--width"},
           Mistake{{"--height", "-64"}, "--height"},
           Mistake{{"--steps", "0"}, "--steps"},
           Mistake{{"--steps", "10001"}, "--steps"},
           Mistake{{"--steps", "many"}, "--steps"},
           Mistake{{"--cfg", "-1"}, "--cfg: -1 is out of range: from 0 to 100"},
           Mistake{{"--cfg", "nan"}, "--cfg: nan is out of range"},
           Mistake{{"--seed", "-1"}, "--seed: \"-1\" is out of range"},
           Mistake{{"--seed", "18446744073709551616"}, "--seed: \"18446744073709551616\" is out of range"},
           Mistake{{"--strength", "2"}, "--strength: 2 is out of range: from 0 to 1"},
           Mistake{{"--batch", "0"}, "--batch"},
           Mistake{{"--count", "0"}, "--count"},
           Mistake{{"--threads", "-1"}, "--threads"},
           Mistake{{"--quality", "101"}, "--quality"},
           Mistake{{"--vae-tile", "8"}, "--vae-tile"},
           Mistake{{"--sampler", "eular"}, "(did you mean \"euler\"?)"},
           Mistake{{"--sampler", "qqqqq"}, "\"qqqqq\" is none of "},
           Mistake{{"--scheduler", "karas"}, "(did you mean \"karras\"?)"},
           Mistake{{"--backend", "natve"}, "\"natve\" is none of native, inductor, eager, reference (did you mean \"native\"?)"},
           Mistake{{"--mode", "fastest"}, "\"fastest\" is none of default"},
           Mistake{{"--dtype", "f8"}, "\"f8\" is none of auto, f32, bf16, f16, fp8"},
           Mistake{{"--dynamic", "maybe"}, "--dynamic"},
           Mistake{{"--prompt", "fox \xff\xfe"}, "--prompt: UTF-8 text is expected"},
           Mistake{{"--promt", "x"}, "(did you mean \"--prompt\"?)"},
       })
    refused(tiny, mistake.words, mistake.message, 2);
}

TEST_CASE("a name under which no picture can be written is refused before the work") {
  TinyModel& tiny = TinyModel::get();
  fs::create_directory(tiny.folder / "folder.png");
  for (const auto& [name, message] : std::map<std::string, std::string>{
           {"nowhere/bad.png", "the folder 'nowhere' of --out does not exist"},
           {"bad.gif", ".png, .jpg, .jpeg or .webp"},
           {"bad", ".png, .jpg, .jpeg or .webp"},
           {"folder.png", "is a folder"},
           {"/proc/bad.png", "/proc"},
           {std::string(300, 'b') + ".png", "304 bytes"},
       }) {
    CAPTURE(name);
    CliResult result = refused(tiny, {"--out", name}, message, 1);
    CHECK(!has(result.err, "programs:"));
  }
  refused(tiny, {"--out", "bad.jpg", "--prompt", std::string(70000, 'x')}, "JPEG", 1);  // 64 kB of text at most
}

TEST_CASE("files that are no model are refused with the reason") {
  TinyModel& tiny = TinyModel::get();
  std::string whole = tiny.bytes("m.safetensors");
  write_atomically(tiny.folder / "cut.safetensors", whole.substr(0, whole.size() / 2));
  write_atomically(tiny.folder / "page.safetensors", "<!DOCTYPE html><html>Not found</html>");
  write_atomically(tiny.folder / "empty.safetensors", "");
  write_atomically(tiny.folder / "noise.png", "no picture");
  std::string module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
  write_safetensors(tiny.folder / "lora.safetensors", {{module + ".lora_down.weight", Tensor(DType::f32, {2, 32})},
                                                       {module + ".lora_up.weight", Tensor(DType::f32, {32, 2})}});
  for (const auto& [file, message] : std::map<std::string, std::string>{{"none.safetensors", "none.safetensors"},
                                                                        {"cut.safetensors", "cut.safetensors"},
                                                                        {"page.safetensors", "HTML"},
                                                                        {"empty.safetensors", "empty.safetensors"},
                                                                        {"lora.safetensors", "LoRA"}})
    refused(tiny, {"--model", file}, message, 1);
  refused(tiny, {"--lora", "none.safetensors"}, "none.safetensors", 1);
  refused(tiny, {"--lora", "page.safetensors"}, "page.safetensors", 1);
  refused(tiny, {"--init", "none.png"}, "none.png", 1);
  refused(tiny, {"--init", "noise.png"}, "noise.png", 1);
  refused(tiny, {"--vae", "lora.safetensors"}, "lora.safetensors", 1);
}

TEST_CASE("a missing vocabulary is named with what is needed and where to put it") {
  TinyModel& tiny = TinyModel::get();
  fs::copy_file(tiny.model, tiny.folder / "alone.safetensors");
  CliResult result = refused(tiny, {"--model", "alone.safetensors"}, "vocab.json", 1);
  CHECK_MESSAGE(has(result.err, "--clip-vocab"), result.err);
  CHECK(tiny.run({"--model", "alone.safetensors", "--clip-vocab", "m.vocab/clip", "--out", "alone.png"})["images"].size() == 1);
}

TEST_CASE("weights that are not numbers are found where they are, and no picture is written") {
  TinyModel& tiny = TinyModel::get();
  struct Damage {
    std::string tensor, who;
  };
  for (const Damage& damage :
       {Damage{"model.diffusion_model.middle_block.0.in_layers.2.bias", "the denoiser of nan.safetensors at step 1"},
        Damage{"first_stage_model.decoder.conv_in.bias", "the autoencoder of nan.safetensors"},
        Damage{"cond_stage_model.transformer.text_model.final_layer_norm.bias", "a text encoder of nan.safetensors"}}) {
    auto tensors = tiny.tensors();
    REQUIRE_MESSAGE(tensors.contains(damage.tensor), damage.tensor);
    Tensor bad = tensors[damage.tensor].to(DType::f32).clone();
    bad.f32()[0] = std::numeric_limits<float>::quiet_NaN();
    tensors[damage.tensor] = bad;
    write_safetensors(tiny.folder / "nan.safetensors", tensors, tiny.metadata());
    refused(tiny, {"--model", "nan.safetensors", "--clip-vocab", "m.vocab/clip"}, damage.who, 1);
  }
}

TEST_CASE("models for inpainting and editing are refused by name, with what to do") {
  TinyModel& tiny = TinyModel::get();
  const std::string first = "model.diffusion_model.input_blocks.0.0.weight";
  for (auto [channels, kind] : {std::pair<int64_t, const char*>{9, "a model for inpainting"}, {8, "a model for editing"}}) {
    auto tensors = tiny.tensors();
    std::vector<int64_t> shape = tensors.at(first).shape();
    shape[1] = channels;
    tensors[first] = Tensor(DType::f32, shape);
    write_safetensors(tiny.folder / "other.safetensors", tensors, tiny.metadata());
    CliResult result = refused(tiny, {"--model", "other.safetensors", "--clip-vocab", "m.vocab/clip"},
                               std::string("other.safetensors: ") + kind, 1);
    CHECK_MESSAGE(has(result.err, "give a checkpoint for text to image"), result.err);
  }
}

TEST_CASE("a disk that is full when the picture is written leaves no part of it, and the next run works") {
  TinyModel& tiny = TinyModel::get();
  refused(tiny, {}, "bad.png", 1, [] {
    rlimit limit{4096, 4096};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  });
  CHECK(tiny.compiled({"--out", "after.png"}) == 0);
  CHECK(tiny.bytes("after.png") == tiny.bytes("warm.png"));
}

TEST_CASE("a run that cannot fit into memory is refused before it begins") {
  TinyModel& tiny = TinyModel::get();
  CliResult result = refused(tiny, {"--width", "16384", "--height", "16384", "--batch", "4096"}, "", 1);
  CHECK(only_json(result)["error"]["code"] == "out_of_memory");
  CHECK(result.seconds < 5 * kPatience);
}

TEST_CASE("a prompt of 100,000 characters works within seconds, also against a short negative prompt") {
  TinyModel& tiny = TinyModel::get();
  std::string prompt;
  while (prompt.size() < 100'000) prompt += "(fox:1.1), ";
  CliResult result = tiny.sinter(tiny.words({"--prompt", prompt, "--negative", "grass", "--out", "long.png"}));
  REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  CHECK(result.seconds < 15 * kPatience);
  CHECK(only_json(result)["compile"]["compiled"] == 0);
  CHECK(tiny.parameters("long.png").starts_with(prompt));
}

TEST_CASE("Ctrl-C while compiling or sampling ends the run within a second, with 130 and without a file") {
  TinyModel& tiny = TinyModel::get();
  struct Moment {
    std::string sign;  // on standard error
    int milliseconds;  // after it
    std::vector<std::string> words;
  };
  for (const Moment& moment : {Moment{"memory: ", 200, {}}, Moment{"programs: ", 50, {"--no-cache"}},
                               Moment{"reference backend", 200, {"--backend", "reference"}}}) {
    CAPTURE(moment.sign);
    check_interrupted(tiny, moment.sign, 10, moment.milliseconds, moment.words);
  }
}

TEST_CASE("kill -9 at any moment leaves a whole picture or none, and a cache that still works") {
  TinyModel& tiny = TinyModel::get();
  TemporaryFolder other;
  std::mt19937 random(7);
  for (int i = 0; i < 8; ++i) {
    Cli sinter(tiny.folder, other / "cache");  // compiling is under way in the first runs
    pid_t child = sinter.start(tiny.words({"--out", "killed.png"}));
    std::this_thread::sleep_for(std::chrono::milliseconds(random() % 400));
    ::kill(child, SIGKILL);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    if (fs::exists(tiny.folder / "killed.png")) CHECK(tiny.bytes("killed.png") == tiny.bytes("warm.png"));
    fs::remove(tiny.folder / "killed.png");
  }
  survives(tiny, other / "cache", "after kills");
  CHECK(survives(tiny, other / "cache", "again") == 0);
  CHECK(tiny.left(".sinter-").empty());  // the next run has removed what the killed ones left
}

TEST_CASE("a damaged cache costs compiling again, and never a wrong picture") {
  TinyModel& tiny = TinyModel::get();
  TemporaryFolder other;
  fs::path cache = copy_of_cache(tiny, other);
  std::mt19937 random(3);
  std::vector<fs::path> files = entries(cache);
  REQUIRE(files.size() > 10);
  for (size_t i = 0; i < files.size(); ++i) {
    std::string bytes = read_file(files[i]);
    if (i % 3 == 0) bytes.resize(random() % bytes.size());
    if (i % 3 == 1) bytes[random() % bytes.size()] ^= char(1 << random() % 8);
    write_atomically(files[i], bytes);
  }
  CHECK(survives(tiny, cache, "damaged") > 0);
  CHECK(survives(tiny, cache, "mended") == 0);
}

TEST_CASE("a cache that cannot be written, or is no folder, costs compiling and gives the same picture") {
  TinyModel& tiny = TinyModel::get();
  TemporaryFolder other;
  write_atomically(other / "file", "not a folder");
  CHECK(survives(tiny, other / "file" / "cache", "below a file") > 0);
  fs::path cache = copy_of_cache(tiny, other);
  auto forbid = [&](fs::perms folders) {
    fs::permissions(cache, folders);
    for (const auto& entry : fs::recursive_directory_iterator(cache))
      if (entry.is_directory()) fs::permissions(entry.path(), folders);
  };
  forbid(fs::perms::owner_read | fs::perms::owner_exec);
  CHECK(survives(tiny, cache, "read-only") == 0);
  forbid(fs::perms::owner_all);
}

TEST_CASE("two processes at once on an empty cache compile each program once, and make the same picture") {
  TinyModel& tiny = TinyModel::get();
  TemporaryFolder other;
  Cli first(tiny.folder, other / "cache"), second(other, other / "cache");
  auto words = tiny.words({"--out", "two.png"});
  pid_t one = first.start(words), two = second.start(words);
  CliResult a = first.finish(one), b = second.finish(two);
  REQUIRE_MESSAGE(a.exit_code == 0, a.err);
  REQUIRE_MESSAGE(b.exit_code == 0, b.err);
  json c = only_json(a)["compile"], d = only_json(b)["compile"];
  TemporaryFolder alone;
  CliResult single = Cli(alone)(words);
  CHECK(c["compiled"].get<int>() + d["compiled"].get<int>() == only_json(single)["compile"]["compiled"].get<int>());
  CHECK(read_file(other / "two.png") == tiny.bytes("warm.png"));
  CHECK(tiny.bytes("two.png") == tiny.bytes("warm.png"));
}
