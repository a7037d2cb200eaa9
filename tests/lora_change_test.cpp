// What a model computes after its LoRAs were changed, with its networks loaded.
#include "backends/cuda/test_device.h"
#include "pipelines/image_model.h"
#include "tiny_model.h"

using namespace sinter;

namespace {

constexpr const char* kQuery = "input_blocks.1.1.transformer_blocks.0.attn1.to_q";

/// A LoRA for one attention layer of the tiny U-Net; `seed` decides its numbers.
void write_lora(const std::filesystem::path& path, float seed) {
  constexpr int64_t kRank = 2;
  const Tensor weight = TinyModel::get().tensors().at("model.diffusion_model." + std::string(kQuery) + ".weight");
  Tensor down(DType::f32, {kRank, weight.dim(1)}), up(DType::f32, {weight.dim(0), kRank});
  for (size_t i = 0; i < down.f32().size(); ++i) down.f32()[i] = std::sin(seed * float(i));
  for (size_t i = 0; i < up.f32().size(); ++i) up.f32()[i] = std::cos(seed * float(i));
  std::string module = "diffusion_model." + std::string(kQuery);
  write_safetensors(path, {{module + ".lora_down.weight", down}, {module + ".lora_up.weight", up}});
}

/// The tiny model on one device, and what its steps give with some LoRAs.
struct ChangingModel {
  Session session;
  ImageModel model;
  SamplingJob job;

  explicit ChangingModel(DeviceChoice::Kind kind)
      : session(
            [&] {
              SessionOptions options{.threads = 2};
              options.device.kind = kind;
              return options;
            }(),
            {.memory_only = true}),
        model(session, {.model = TinyModel::get().model}) {
    job.positive = {{model.encode("a fox")}};
    job.steps = 1, job.cfg = 1, job.seed = 5;
    job.latent = Tensor(DType::f32, model.latent_shape(1, 64, 64));
  }
  Tensor with(const std::vector<ImageModel::LoraRequest>& loras) {
    for (const std::string& warning : model.set_loras(loras)) FAIL_CHECK(warning);
    return model.sample(job);
  }
};

bool same(const Tensor& a, const Tensor& b) { return relative_error(a, b) == 0; }

}  // namespace

TEST_CASE("a model whose LoRAs change again and again computes with those that it has now") {
  const auto first = TinyModel::get().folder / "first.safetensors", second = TinyModel::get().folder / "second.safetensors";
  write_lora(first, 1);
  write_lora(second, 0.3f);
  auto check = [&](DeviceChoice::Kind kind) {
    ChangingModel changing(kind);
    const Tensor plain = changing.with({}), one = changing.with({{first}}), weaker = changing.with({{first, 0.5}}),
                 both = changing.with({{first}, {second}});
    CHECK_FALSE(same(one, plain));
    CHECK_FALSE(same(weaker, one));
    CHECK_FALSE(same(both, one));
    CHECK(same(changing.with({{first, 0}}), plain));
    CHECK(same(changing.with({{first}}), one));
    CHECK(same(changing.with({{first}, {second, 0}}), one));
    CHECK(same(changing.with({}), plain));
    // Read with the first weights that are loaded, as before.
    CHECK(same(ChangingModel(kind).with({{first}, {second}}), both));
  };
  SUBCASE("on the CPU") { check(DeviceChoice::Kind::Cpu); }
  SUBCASE("on the GPU") {
    if (cuda::test_device()) check(DeviceChoice::Kind::Cuda);
  }
}

TEST_CASE("a LoRA that is cut off is refused, and the model goes on with those that it had") {
  const auto whole = TinyModel::get().folder / "whole.safetensors", cut = TinyModel::get().folder / "cut.safetensors";
  write_lora(whole, 1);
  std::filesystem::copy_file(whole, cut, std::filesystem::copy_options::overwrite_existing);
  std::filesystem::resize_file(cut, std::filesystem::file_size(whole) - 8);
  auto check = [&](DeviceChoice::Kind kind) {
    ChangingModel changing(kind);
    const Tensor before = changing.with({{whole}});
    CHECK_THROWS_WITH_AS(changing.model.set_loras({{whole, 0.2}, {cut}}), doctest::Contains("cut.safetensors"), Error);
    CHECK(same(changing.model.sample(changing.job), before));
  };
  SUBCASE("on the CPU") { check(DeviceChoice::Kind::Cpu); }
  SUBCASE("on the GPU") {
    if (cuda::test_device()) check(DeviceChoice::Kind::Cuda);
  }
}
