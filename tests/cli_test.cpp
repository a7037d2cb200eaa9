#include <doctest/doctest.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "base/file.h"
#include "cli.h"
#include "compiler/cache.h"
#include "io/image.h"
#include "io/safetensors.h"
#include "patience.h"
#include "temporary_folder.h"

namespace fs = std::filesystem;
using namespace sinter;
using nlohmann::json;

namespace {

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

const char* const kVerbs[] = {"cache", "devices", "env", "generate", "graph", "inspect", "shapes", "synth"};

}  // namespace

TEST_CASE("help lists every verb at once, and every verb has its own help") {
  TemporaryFolder folder;
  Cli sinter(folder);
  CliResult help = sinter({"--help"});
  double fastest = help.seconds;
  for (int i = 0; i < 5; ++i) fastest = std::min(fastest, sinter({"--help"}).seconds);
  CHECK(help.exit_code == 0);
  CHECK(fastest < 0.1 * kPatience);  // 20 ms on an idle machine
  for (const char* verb : kVerbs) {
    CAPTURE(verb);
    CHECK(has(help.out, std::string("\n  ") + verb));
    CliResult own = sinter({verb, "--help"});
    CHECK(own.exit_code == 0);
    CHECK(has(own.out, std::string("sinter ") + verb));
    CHECK(own.err.empty());
  }
  CHECK(has(sinter({"--version"}).out, "sinter "));
}

TEST_CASE("a mistyped verb or option is a usage error that names what was meant") {
  TemporaryFolder folder;
  Cli sinter(folder);
  struct Mistake {
    std::vector<std::string> words;
    std::string message;
  };
  for (const Mistake& mistake : {
           Mistake{{"inspekt", "x"}, "there is no verb \"inspekt\" (did you mean \"inspect\"?)"},
           Mistake{{"inspect", "--jsn", "x"}, "sinter inspect does not know the option \"--jsn\" (did you mean \"--json\"?)"},
           Mistake{{"inspect"}, "FILE is required"},
           Mistake{{"inspect", "a", "b"}, "sinter inspect does not know the argument \"b\""},
           Mistake{{"synth", "--family", "sd3", "--out", "a.safetensors"}, "\"sd3\" is none of sd15, sdxl, flux1"},
           Mistake{{"synth", "--family", "sd15", "--out", "a.safetensors", "--seed", "-1"}, "--seed: \"-1\" is out of range"},
           Mistake{{"synth", "--family", "sd15", "--out", "a.png"}, "ends in .safetensors"},
           Mistake{{"synth", "--family", "sd15", "--schnell", "--out", "a.safetensors"}, "--schnell is for --family flux1"},
           Mistake{{"cache", "clear", "--older-than", "-1"}, "--older-than: -1 is out of range: 0 or more"},
           Mistake{{"cache", "verfy"}, "(did you mean \"verify\"?)"},
           Mistake{{"graph", "a", "--component", "unet"}, "\"unet\" is none of denoiser, vae-decoder"},
       }) {
    CAPTURE(mistake.message);
    CliResult result = sinter(mistake.words);
    CHECK(result.exit_code == 2);
    CHECK(result.out.empty());
    CHECK(result.err.starts_with("error: "));
    CHECK_MESSAGE(has(result.err, mistake.message), result.err);
  }
  CliResult nothing = sinter({});
  CHECK(nothing.exit_code == 2);
  CHECK(has(nothing.err, "Usage: sinter VERB"));
}

TEST_CASE("with --json an error is one object on standard output too") {
  TemporaryFolder folder;
  Cli sinter(folder);
  CliResult missing = sinter({"inspect", "--json", (folder / "none.safetensors").string()});
  CHECK(missing.exit_code == 1);
  json error = only_json(missing)["error"];
  CHECK(error["code"] == "not_found");
  CHECK(has(error["message"], "none.safetensors"));
  CHECK(has(missing.err, "none.safetensors"));
  CliResult usage = sinter({"inspect", "--json", "--wrong"});
  CHECK(usage.exit_code == 2);
  CHECK(only_json(usage)["error"]["code"] == "invalid_argument");
}

TEST_CASE("a synthetic model is inspected as what it is, and never overwritten unasked") {
  TemporaryFolder folder;
  Cli sinter(folder);
  std::string model = (folder / "m.safetensors").string();
  CliResult made = sinter({"synth", "--family", "sdxl", "--tiny", "--out", model, "--json"});
  REQUIRE_MESSAGE(made.exit_code == 0, made.err);
  CHECK(only_json(made)["bytes"].get<uint64_t>() > 1'000'000);
  CliResult again = sinter({"synth", "--family", "sdxl", "--tiny", "--out", model});
  CHECK(again.exit_code == 1);
  CHECK(has(again.err, "--force replaces"));

  json seen = only_json(sinter({"inspect", "--json", model}));
  CHECK(seen["kind"] == "model");
  CHECK(seen["family"] == "sdxl");
  CHECK(seen["prediction"] == "epsilon");
  std::map<std::string, json> components;
  for (const json& component : seen["components"]) components[component["component"]] = component;
  for (const char* name : {"denoiser", "vae", "clip-l", "clip-g"}) {
    CAPTURE(name);
    REQUIRE(components.contains(name));
    CHECK(components[name]["complete"] == true);
    CHECK(components[name]["dtypes"] == "f16");
  }
  CliResult human = sinter({"inspect", model});
  CHECK(has(human.out, "Stable Diffusion XL"));
  CHECK(has(human.out, "clip-g"));
}

TEST_CASE("broken and foreign files are refused with the reason, never by a crash") {
  TemporaryFolder folder;
  Cli sinter(folder);
  std::string model = (folder / "m.safetensors").string();
  REQUIRE(sinter({"synth", "--family", "sd15", "--tiny", "--out", model}).exit_code == 0);
  std::string whole = read_file(model);
  struct Bad {
    const char* name;
    std::string content, words;
  };
  for (const Bad& bad : {
           Bad{"empty.safetensors", "", "empty.safetensors"},
           Bad{"cut.safetensors", whole.substr(0, whole.size() / 2), "cut.safetensors"},
           Bad{"header.safetensors", std::string(8, '\xff') + "{}", "header.safetensors"},
           Bad{"page.safetensors", "<!DOCTYPE html><html>Not found</html>", "page.safetensors"},
           Bad{"model.ckpt", "PK\x03\x04 something", "convert it to safetensors"},
           Bad{"broken.png", "\x89PNG\r\n\x1a\n and no more", "broken.png"},
           Bad{"tokenizer.json", "{\"model\": 3}", "neither a vocabulary of T5"},
       }) {
    CAPTURE(bad.name);
    write_atomically(folder / bad.name, bad.content);
    for (const char* verb : {"inspect", "graph"}) {
      CliResult result = sinter({verb, (folder / bad.name).string()});
      CHECK(result.exit_code == 1);
      CHECK(result.err.starts_with("error: "));
      if (std::string_view(verb) == "inspect") CHECK_MESSAGE(has(result.err, bad.words), result.err);
    }
  }
}

TEST_CASE("a model that lacks a tensor is shown as incomplete, with the name and shape of what is missing") {
  TemporaryFolder folder;
  Cli sinter(folder);
  std::string model = (folder / "m.safetensors").string();
  REQUIRE(sinter({"synth", "--family", "sd15", "--tiny", "--out", model}).exit_code == 0);
  auto file = SafetensorsFile::open(model);
  std::map<std::string, Tensor> tensors;
  for (const auto& entry : file->entries())
    if (entry.name != "model.diffusion_model.out.0.weight") tensors[entry.name] = file->tensor(entry);
  write_safetensors(folder / "less.safetensors", tensors, file->metadata());
  json seen = only_json(sinter({"inspect", "--json", (folder / "less.safetensors").string()}));
  json denoiser = seen["components"][0];
  CHECK(denoiser["complete"] == false);
  CHECK(has(denoiser["problem"], "out.0.weight"));
  CHECK(has(denoiser["problem"], "[32]"));
}

TEST_CASE("a picture shows its size and the parameters inside, also those that would disturb a terminal") {
  TemporaryFolder folder;
  Cli sinter(folder);
  Tensor pixels(DType::f32, {5, 7, 3});
  write_image(folder / "p.png", pixels, {{"parameters", "a fox\nSteps: 20\x1b[31m"}});
  json seen = only_json(sinter({"inspect", "--json", (folder / "p.png").string()}));
  CHECK(seen["kind"] == "picture");
  CHECK(seen["width"] == 7);
  CHECK(seen["height"] == 5);
  CHECK(seen["text"]["parameters"] == "a fox\nSteps: 20\x1b[31m");
  CliResult human = sinter({"inspect", (folder / "p.png").string()});
  CHECK(has(human.out, "Steps: 20"));
  CHECK(!has(human.out, "\x1b"));
}

TEST_CASE("a LoRA shows rank, alpha, family and the keys that nobody knows") {
  TemporaryFolder folder;
  Cli sinter(folder);
  auto zeros = [](std::vector<int64_t> shape) { return Tensor(DType::f32, std::move(shape)); };
  std::string module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";
  write_safetensors(folder / "l.safetensors", {{module + ".lora_down.weight", zeros({8, 320})},
                                               {module + ".lora_up.weight", zeros({320, 8})},
                                               {module + ".alpha", Tensor::of({}, std::array{4.0f})},
                                               {"lora_unet_no_such_layer.lora_down.weight", zeros({8, 4})}});
  json seen = only_json(sinter({"inspect", "--json", (folder / "l.safetensors").string()}));
  CHECK(seen["kind"] == "LoRA");
  CHECK(seen["family"] == "sd15");
  CHECK(seen["rank"] == "8");
  CHECK(seen["alpha"] == "4");
  CHECK(seen["networks"] == json{{"LoRA", 1}});
  CHECK(seen["modules"] == json{{"denoiser", 1}});
  CHECK(seen["unknown_keys"] == json{"lora_unet_no_such_layer.lora_down.weight"});
}

TEST_CASE("graphs are printed whole, by block label and by place, as text, dot and picture") {
  TemporaryFolder folder;
  Cli sinter(folder);
  std::string model = (folder / "m.safetensors").string();
  REQUIRE(sinter({"synth", "--family", "flux1", "--tiny", "--out", model}).exit_code == 0);
  CHECK(has(sinter({"graph", model}).out, "weight \"img_in.weight\""));
  CliResult blocks = sinter({"graph", model, "--blocks"});
  CHECK(has(blocks.out, "double_blocks.0"));
  CliResult block = sinter({"graph", model, "--block", "double_blocks.1"});
  CHECK(has(block.out, "weight \"img_attn.qkv.weight\""));
  CliResult none = sinter({"graph", model, "--block", "double_blocks.7"});
  CHECK(none.exit_code == 1);
  CHECK(has(none.err, "there is no block \"double_blocks.7\" (did you mean \"double_blocks."));
  for (const char* component : {"vae-encoder", "vae-decoder", "clip-l", "t5"})
    CHECK_MESSAGE(sinter({"graph", model, "--component", component}).exit_code == 0, component);
  CHECK(has(sinter({"graph", model, "--component", "clip-g"}).err, "has no clip-g"));
  CHECK(sinter({"graph", model, "--component", "t5", "--format", "dot"}).out.starts_with("digraph"));
  CHECK(sinter({"graph", model, "--component", "t5", "--format", "svg", "--out", (folder / "t5.svg").string()}).out.empty());
  CHECK(has(read_file(folder / "t5.svg"), "</svg>"));
}

TEST_CASE("the cache is shown, carried and verified; damage is a failure") {
  TemporaryFolder folder;
  Cli sinter(folder);
  for (const char* verb : {"stats", "list", "explain", "verify", "clear"}) {
    CAPTURE(verb);
    CliResult result = sinter({"cache", verb, "--json"});
    CHECK(result.exit_code == 0);
    only_json(result);
  }
  CliResult not_an_archive = sinter({"cache", "import", program().string(), "--json"});
  CHECK(not_an_archive.exit_code == 1);
  CHECK(only_json(not_an_archive)["error"]["code"] == "corrupt");
  CHECK(sinter({"cache", "export", (folder / "a.archive").string()}).exit_code == 0);
  json imported = only_json(sinter({"cache", "import", (folder / "a.archive").string(), "--json"}));
  CHECK(imported["imported"] == 0);

  {
    Cache cache({.directory = folder / "cache"});
    cache.put(digest_of("a key"), std::as_bytes(std::span(std::string_view("a program"))), {.label = "unet/block"});
  }
  CHECK(has(sinter({"cache", "list"}).out, "unet/block"));
  CHECK(sinter({"cache", "verify"}).exit_code == 0);
  int damaged = 0;
  for (const auto& entry : fs::recursive_directory_iterator(folder / "cache")) {
    if (!entry.is_regular_file() || !has(read_file(entry.path()), "a program")) continue;
    fs::resize_file(entry.path(), fs::file_size(entry.path()) - 1);
    ++damaged;
  }
  REQUIRE(damaged == 1);
  CliResult verified = sinter({"cache", "verify", "--json"});
  CHECK(verified.exit_code == 1);
  CHECK(only_json(verified)["damaged"].size() == 1);
  CHECK(sinter({"cache", "verify"}).exit_code == 0);  // it has been removed
}

TEST_CASE("env shows every variable with its value") {
  TemporaryFolder folder;
  json seen = only_json(Cli(folder)({"env", "--json"}));
  CHECK(seen["SINTER_CACHE_DIR"]["value"] == (folder / "cache").string());
  CHECK(seen["SINTER_CPU_TARGET"].contains("meaning"));
}

TEST_CASE("devices lists the CPU first, and every GPU or the reason why there is none") {
  TemporaryFolder folder;
  json seen = only_json(Cli(folder)({"devices", "--json"}));
  REQUIRE(!seen["devices"].empty());
  CHECK(seen["devices"][0]["device"] == "cpu");
  CHECK(seen["devices"][0]["cores"] > 0);
  CHECK(seen["why_no_cuda"].is_string() == (seen["devices"].size() == 1));
  for (size_t i = 1; i < seen["devices"].size(); ++i) CHECK(seen["devices"][i]["total_bytes"] > 0);
  CliResult text = Cli(folder)({"devices"});
  CHECK(text.exit_code == 0);
  CHECK(has(text.out, seen["auto"].get<std::string>()));
}

TEST_CASE("an interrupted synth ends soon, says so, and leaves no file") {
  TemporaryFolder folder;
  Cli sinter(folder);
  pid_t child = sinter.start({"synth", "--family", "sdxl", "--dtype", "f32", "--out", (folder / "big.safetensors").string()});
  auto partial = [&] {  // the temporary file tells that writing has begun
    for (const auto& entry : fs::directory_iterator(folder.path()))
      if (entry.path().filename().string().find(".sinter-") != std::string::npos) return true;
    return false;
  };
  for (int i = 0; i < 500 && !partial(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  REQUIRE(partial());
  ::kill(child, SIGINT);
  CliResult result = sinter.finish(child);
  CHECK(result.exit_code == 130);
  CHECK(has(result.err, "cancelled"));
  CHECK(!partial());
  CHECK(!fs::exists(folder / "big.safetensors"));
}
