// Checkpoints of scaled 8-bit floats through the whole program.
#include <cmath>

#include "tiny_model.h"

using namespace sinter;

namespace {

/// The tiny model with its denoiser's matrices as f8e4m3 and a scale, and the same numbers multiplied out.
void write_scaled(const TinyModel& tiny, const std::string& scaled_file, const std::string& wide_file) {
  auto file = SafetensorsFile::open(tiny.model);
  std::map<std::string, Tensor> scaled, wide;
  int count = 0;
  for (const auto& entry : file->entries()) {
    Tensor tensor = file->tensor(entry.name);
    bool matrix = entry.name.starts_with("model.diffusion_model.") && entry.name.ends_with(".weight") && tensor.rank() == 2;
    if (!matrix) {
      scaled[entry.name] = wide[entry.name] = tensor;
      continue;
    }
    ++count;
    Tensor values = tensor.to(DType::f32);
    float largest = 0;
    for (float v : values.f32()) largest = std::max(largest, std::fabs(v));
    std::vector<float> scale{largest / 448};
    for (float& v : values.f32()) v /= scale[0];
    Tensor stored = values.to(DType::f8e4m3), multiplied = stored.to(DType::f32);
    for (float& v : multiplied.f32()) v *= scale[0];
    scaled[entry.name] = stored;
    scaled[entry.name.substr(0, entry.name.size() - 6) + "scale_weight"] = Tensor::of({}, scale);
    wide[entry.name] = multiplied.to(DType::bf16);
  }
  REQUIRE(count > 20);
  scaled["model.diffusion_model.scaled_fp8"] = Tensor(DType::f8e4m3, {0});
  write_safetensors(scaled_file, scaled, file->metadata());
  write_safetensors(wide_file, wide, file->metadata());
}

}  // namespace

TEST_CASE("a checkpoint of scaled 8-bit floats draws the picture of the numbers that it stands for, and is smaller") {
  TinyModel& tiny = TinyModel::get();
  std::string scaled = (tiny.folder / "scaled.safetensors").string(), wide = (tiny.folder / "wide.safetensors").string();
  write_scaled(tiny, scaled, wide);
  CHECK(std::filesystem::file_size(scaled) < std::filesystem::file_size(wide));
  std::string vocabulary = (tiny.folder / "m.vocab" / "clip").string();
  tiny.run({"--model", scaled, "--out", "scaled.png", "--clip-vocab", vocabulary});
  tiny.run({"--model", wide, "--out", "wide.png", "--clip-vocab", vocabulary});
  auto pixels = [&](const char* name) {
    Tensor picture = tiny.pixels(name);
    return std::vector<float>(picture.f32().begin(), picture.f32().end());
  };
  CHECK(pixels("scaled.png") == pixels("wide.png"));
  CHECK(pixels("scaled.png") != pixels("warm.png"));
}

TEST_CASE("--dtype fp8 without a GPU says what runs fp8 checkpoints") {
  TinyModel& tiny = TinyModel::get();
  CliResult result = tiny.sinter(tiny.words({"--dtype", "fp8", "--device", "cpu", "--out", "none.png"}));
  CHECK(result.exit_code != 0);
  std::string message = only_json(result)["error"]["message"];
  CHECK(has(message, "--dtype fp8 needs a GPU of compute capability 8.9 or newer"));
  CHECK(has(message, "f32 and bf16, which run fp8 checkpoints too"));
}
