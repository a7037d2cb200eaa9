// What a run takes of device memory under a budget, on the made-up driver of tests/fake_cuda, which counts what is taken.
#include "half_model.h"
#include "made_up_driver.h"
#include "models/synthetic_checkpoint.h"
#include "sparse_checkpoint.h"
#include "tiny_model.h"

using namespace sinter;
using nlohmann::json;

TEST_CASE("under a budget blocks are streamed, and device memory is taken as planned") {
  TinyModel& tiny = TinyModel::get();
  const std::string model = (tiny.folder / "half.safetensors").string();
  write_sparse_checkpoint(model, half_sd15(), DType::f16);
  const std::string vocabulary = (vocabulary_folder(tiny.model) / "clip").string();
  auto run = [&](const std::vector<std::string>& more) {
    std::vector<std::string> words = {"--device", "cuda:1", "--model", model, "--clip-vocab", vocabulary, "--steps", "2"};
    words.insert(words.end(), more.begin(), more.end());
    return tiny.sinter(tiny.words(words), on_made_up_driver({}));
  };
  // What code takes is planned too, and the made-up driver takes none.
  constexpr double kCode = 36 << 20;
  double whole = 0;
  for (double share : {1.0, 0.8, 0.6}) {
    CAPTURE(share);
    std::vector<std::string> words;
    if (whole > 0) words = {"--vram-budget", fmt::format("{:.0f}M", share * whole / 1e6)};
    CliResult result = run(words);
    REQUIRE_MESSAGE(result.exit_code == 0, result.err);
    json memory = only_json(result)["memory"];
    const double planned = memory["planned_peak_bytes"]["cuda:1"], measured = memory["measured_peak_bytes"]["cuda:1"];
    INFO(result.err);
    CHECK((memory["streamed_blocks"].get<int>() > 0) == (share < 1));
    CHECK(has(result.err, "are streamed") == (share < 1));
    if (whole > 0) CHECK(planned <= share * whole);
    CHECK(measured == doctest::Approx(planned - kCode).epsilon(0.01));
    if (whole == 0) whole = planned;
  }
  CliResult refused = run({"--vram-budget", "100M"});
  CHECK(refused.exit_code != 0);
  CHECK(only_json(refused)["error"]["code"] == "out_of_memory");
  for (const char* words : {"at the least", "--vram-budget"}) CHECK_MESSAGE(has(refused.err, words), refused.err);
}

TEST_CASE("on the CPU the options for device memory say that they do nothing") {
  CliResult result =
      TinyModel::get().sinter(TinyModel::get().words({"--device", "cpu", "--vram-budget", "1G", "--reserve-vram", "1G"}));
  REQUIRE_MESSAGE(result.exit_code == 0, result.err);
  for (const char* option : {"--vram-budget has no effect", "--reserve-vram has no effect"})
    CHECK_MESSAGE(has(result.err, option), result.err);
}
