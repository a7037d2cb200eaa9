// What `sinter generate --device cuda` says and leaves where the device fails, on the made-up driver of tests/fake_cuda: its
// kernels do nothing, and everything around them is real.
#include <csignal>
#include <thread>

#include "made_up_driver.h"
#include "patience.h"
#include "tiny_model.h"

namespace fs = std::filesystem;
using namespace sinter;
using nlohmann::json;

namespace {

/// A run on the made-up GPU. `warm` is what it draws when nothing fails; all programs are in the cache.
struct GpuModel {
  TinyModel& tiny = TinyModel::get();

  GpuModel() {
    if (fs::exists(tiny.folder / "gpu_warm.png")) return;
    CliResult first = run({}, {"--out", "gpu_warm.png"});
    REQUIRE_MESSAGE(first.exit_code == 0, first.err);
  }
  std::vector<std::string> words(const std::vector<std::string>& more) const {
    std::vector<std::string> all{"--device", "cuda:1"};
    all.insert(all.end(), more.begin(), more.end());
    return tiny.words(all);
  }
  CliResult run(const Environment& environment, const std::vector<std::string>& more) const {
    return tiny.sinter(words(more), on_made_up_driver(environment));
  }
};

json error_of(const CliResult& result) { return only_json(result)["error"]; }

TEST_CASE("on a made-up GPU, a second run compiles nothing and draws the same") {
  GpuModel gpu;
  CliResult again = gpu.run({}, {"--out", "again.png"});
  REQUIRE_MESSAGE(again.exit_code == 0, again.err);
  CHECK(only_json(again)["compile"]["compiled"] == 0);
  CHECK(gpu.tiny.bytes("again.png") == gpu.tiny.bytes("gpu_warm.png"));
}

TEST_CASE("device memory that others take in mid-run is done without, or told with what was asked, free and planned") {
  GpuModel gpu;
  int drawn = 0, refused = 0;
  for (const char* others : {"985000000", "915000000"})
    for (int allocation = 2; allocation <= 40; allocation += 6) {
      INFO(std::string(others));
      CAPTURE(allocation);
      Environment taken{{"FAKE_CUDA_MEMORY", "1000000000"}, {"FAKE_CUDA_OTHERS", fmt::format("{}@{}", others, allocation)}};
      CliResult result = gpu.run(taken, {"--width", "256", "--height", "256", "--out", "bad.png"});
      if (result.exit_code == 0) {
        ++drawn;
        CHECK(gpu.tiny.left("bad") == std::set<std::string>{"bad.png"});
        fs::remove(gpu.tiny.folder / "bad.png");
        continue;
      }
      ++refused;
      CHECK(result.exit_code == 1);
      json error = error_of(result);
      CHECK(error["code"] == "out_of_memory");
      for (const char* words : {"asked for", "MiB) of device memory, but only", "The run was planned to take", "are free",
                                "make the picture or the batch smaller", "--dtype fp8"})
        CHECK_MESSAGE(has(error["message"], words), error["message"].get<std::string>());
      CHECK(gpu.tiny.left("bad").empty());
    }
  CHECK(drawn > 0);
  CHECK(refused > 0);
}

TEST_CASE("a picture whose decode finds too little memory is decoded in tiles, and that is told once") {
  GpuModel gpu;
  const std::vector<std::string> large{"--width", "768", "--height", "768", "--steps", "1"};
  auto with = [&](const Environment& environment, const char* out) {
    std::vector<std::string> words = large;
    words.insert(words.end(), {"--out", out, "--count", "2"});
    return gpu.run(environment, words);
  };
  REQUIRE(with({}, "{seed}_whole.png").exit_code == 0);
  bool tiled = false;
  for (int allocation = 5; !tiled && allocation < 60; ++allocation) {
    CliResult result =
        with({{"FAKE_CUDA_MEMORY", "1000000000"}, {"FAKE_CUDA_OTHERS", fmt::format("800000000@{}", allocation)}}, "tiled.png");
    const size_t at = result.err.find("the picture is decoded in tiles of ");
    if (result.exit_code != 0 || at == std::string::npos) continue;
    tiled = true;
    CHECK(result.err.find("the picture is decoded in tiles of ", at + 1) == std::string::npos);
  }
  CHECK(tiled);
}

TEST_CASE("a device that is lost at any moment ends the run with a clear error, without a picture and without a crash") {
  GpuModel gpu;
  for (const auto& [call, result] : std::map<std::string, std::string>{{"cuStreamSynchronize", "700"},
                                                                       {"cuLaunchKernel", "719"},
                                                                       {"cuMemcpyHtoDAsync_v2", "999"},
                                                                       {"cuMemAlloc_v2", "716"},
                                                                       {"cuGraphLaunch", "214"}})
    for (int number : {1, 2, 5, 12, 30}) {
      CAPTURE(call);
      CAPTURE(number);
      CliResult run = gpu.run({{"FAKE_CUDA_FAIL", fmt::format("{}={}@{}", call, result, number)}}, {"--out", "bad.png"});
      if (run.exit_code == 0) {  // it makes fewer such calls
        CHECK(number > 1);
        fs::remove(gpu.tiny.folder / "bad.png");
        continue;
      }
      CHECK(run.exit_code == 1);
      const std::string message = error_of(run)["message"];
      CHECK_MESSAGE((has(message, "nothing more can be run there in this process") || has(message, "The device is lost")),
                    message);
      CHECK(has(message, "tart the program again"));
      CHECK(gpu.tiny.left("bad").empty());
    }
}

TEST_CASE("pictures that were written before the device failed stay whole") {
  GpuModel gpu;
  bool kept = false;
  for (int number = 1; !kept && number < 40; number += 2) {
    CliResult run = gpu.run({{"FAKE_CUDA_FAIL", fmt::format("cuGraphLaunch=700@{}", number)}},
                            {"--count", "6", "--out", "kept_{seed}.png", "--seed", "1"});
    if (run.exit_code == 0) break;
    std::set<std::string> names = gpu.tiny.left("kept_");
    kept = !names.empty() && names.size() < 6;
    for (const std::string& name : names) {
      CHECK(gpu.tiny.pixels(name).dim(0) == 64);  // it can be read
      fs::remove(gpu.tiny.folder / name);
    }
  }
  CHECK(kept);
}

TEST_CASE("stored programs that the device refuses are compiled again, with the reason, and the picture is the same") {
  GpuModel gpu;
  for (const char* refusal : {"209", "200"}) {
    INFO(std::string(refusal));
    TemporaryFolder other;
    fs::copy(gpu.tiny.folder / "cache", other / "cache", fs::copy_options::recursive);
    Cli sinter(gpu.tiny.folder, other / "cache");
    auto run = [&](const Environment& environment) {
      CliResult result = sinter(gpu.words({"--out", "again.png"}), on_made_up_driver(environment));
      REQUIRE_MESSAGE(result.exit_code == 0, result.err);
      CHECK(gpu.tiny.bytes("again.png") == gpu.tiny.bytes("gpu_warm.png"));
      return only_json(result)["compile"];
    };
    json compile = run({{"FAKE_CUDA_FAIL", fmt::format("cuModuleLoadData={}@1-1", refusal)}});
    CHECK(compile["compiled"] > 0);
    CHECK(has(compile["reasons"].dump(), "what was stored cannot be used"));
    CHECK(run({})["compiled"] == 0);
  }
}

TEST_CASE("Ctrl-C during replayed steps ends the run within about a step, with 130, and keeps the pictures that are done") {
  GpuModel gpu;
  // Every step takes 0.2 s; the first picture of two is drawn before.
  pid_t child = gpu.tiny.sinter.start(gpu.words({"--steps", "6", "--count", "100", "--out", "done_{seed}.png"}),
                                      on_made_up_driver({{"FAKE_CUDA_DELAY", "200"}}));
  for (int i = 0; i < 3000 && gpu.tiny.left("done_").empty(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const auto pressed = std::chrono::steady_clock::now();
  ::kill(child, SIGINT);
  CliResult result = gpu.tiny.sinter.finish(child);
  CHECK(std::chrono::steady_clock::now() - pressed < std::chrono::milliseconds(1500) * kPatience);
  CHECK(result.exit_code == 130);
  CHECK(error_of(result)["code"] == "cancelled");
  CHECK(gpu.tiny.left("done_") == std::set<std::string>{"done_5_00001.png"});
  CHECK(gpu.tiny.pixels("done_5_00001.png").dim(0) == 64);
}

TEST_CASE("with a driver that is too old, auto runs on the CPU and says so once, and the device tells what is needed") {
  TinyModel& tiny = TinyModel::get();
  const Environment old{{"FAKE_CUDA_VERSION", "11040"}};
  CliResult run = tiny.sinter(tiny.words({"--device", "auto", "--out", "cpu.png"}), on_made_up_driver(old));
  REQUIRE_MESSAGE(run.exit_code == 0, run.err);
  CHECK(tiny.bytes("cpu.png") == tiny.bytes("warm.png"));
  const std::string needed = "knows CUDA 11.4, and code for compute capability 9.0 needs 11.8; update the driver";
  const size_t at = run.err.find(needed);
  CHECK_MESSAGE(at != std::string::npos, run.err);
  CHECK(run.err.find(needed, at + 1) == std::string::npos);
  CHECK(has(run.err, "running on the CPU"));

  CliResult asked = tiny.sinter(tiny.words({"--device", "cuda:1", "--out", "bad.png"}), on_made_up_driver(old));
  CHECK(asked.exit_code == 1);
  CHECK(has(error_of(asked)["message"], needed));
  json devices = only_json(tiny.sinter({"devices", "--json"}, on_made_up_driver(old)));
  CHECK(has(devices["devices"][2]["problem"], needed));
  CHECK(devices["auto"] == "cpu");
  CHECK(has(tiny.sinter({"devices"}, on_made_up_driver(old)).out, "cannot be used: the NVIDIA driver"));
}

}  // namespace
