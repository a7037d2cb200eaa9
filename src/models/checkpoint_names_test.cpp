#include "models/checkpoint_names.h"

#include <doctest/doctest.h>

#include <set>

#include "golden.h"
#include "refusal.h"
#include "temporary_folder.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;
using Tensors = std::map<std::string, Tensor>;

void put(const fs::path& path, const std::vector<std::string>& names) {
  Tensors tensors;
  for (const std::string& name : names) tensors[name] = Tensor(DType::f16, {2, 2});
  write_safetensors(path, tensors);
}

Detected detected(const std::vector<std::string>& names) {
  TemporaryFolder folder;
  put(folder / "it.safetensors", names);
  return detect_family(Checkpoint::open(folder / "it.safetensors"));
}

std::string refused(const std::vector<std::string>& names) {
  return refusal([&] { detected(names); });
}

/// A path in the golden data; empty after saying that the test is skipped.
std::string golden(const std::string& name) {
  auto folder = golden_folder();
  if (folder && fs::exists(*folder / name)) return (*folder / name).string();
  MESSAGE("skipped: golden data " << name << " not found");
  return "";
}

TEST_CASE("small files are told apart by their names") {
  CHECK(detected({"lora_unet_x.lora_down.weight", "lora_unet_x.lora_up.weight"}).content == FileContent::Lora);
  CHECK(detected({"transformer.x.lora_A.weight", "transformer.x.lora_B.weight"}).content == FileContent::Lora);
  CHECK(detected({"lora_unet_x.hada_w1_a"}).content == FileContent::Lora);
  CHECK(detected({"emb_params"}).content == FileContent::TextualInversion);
  CHECK(detected({"clip_l", "clip_g"}).content == FileContent::TextualInversion);
  CHECK(detected({"<my-cat>"}).content == FileContent::TextualInversion);
  CHECK(detected({"decoder.conv_in.weight"}).content == FileContent::Vae);
  CHECK(detected({"decoder.conv_in.weight", "decoder.up_blocks.0.resnets.0.norm1.weight"}).component == Component::Vae);
}

TEST_CASE("text encoders are told apart by their layers") {
  CHECK(detected({"text_model.encoder.layers.0.mlp.fc1.weight"}).component == Component::ClipL);
  CHECK(detected({"text_model.encoder.layers.0.mlp.fc1.weight", "text_model.encoder.layers.30.mlp.fc1.weight"}).component ==
        Component::ClipG);
  CHECK(detected({"transformer.resblocks.0.ln_1.weight", "transformer.resblocks.0.mlp.c_fc.weight",
                  "transformer.resblocks.30.mlp.c_fc.weight"})
            .component == Component::ClipG);
  CHECK(detected({"encoder.block.0.layer.1.DenseReluDense.wi_1.weight"}).component == Component::T5);
  CHECK(contains(refused({"text_model.encoder.layers.0.mlp.fc1.weight", "text_model.encoder.layers.22.mlp.fc1.weight"}),
                 "a CLIP-H text encoder: not supported yet"));
}

TEST_CASE("what is known and not supported is named") {
  CHECK(contains(refused({"head.modulation"}), "it.safetensors: a Wan checkpoint: not supported yet"));
  CHECK(contains(refused({"model.joint_blocks.0.context_block.attn.qkv.weight"}), "an SD3 checkpoint"));
  CHECK(contains(refused({"decoder.middle.0.residual.0.gamma"}), "the autoencoder of Wan"));
  CHECK(contains(refused({"encoder.block.0.layer.1.DenseReluDense.wi_1.weight",
                          "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"}),
                 "a UMT5 text encoder"));
  CHECK(contains(refused({"double_blocks.0.img_attn.norm.key_norm.scale", "img_in.weight"}), "FLUX.1 checkpoint for filling"));
  CHECK(contains(refused({"double_blocks.0.img_attn.norm.key_norm.scale", "distilled_guidance_layer.norms.0.scale"}),
                 "a Chroma checkpoint"));
  CHECK(contains(refused({"input_blocks.0.0.weight", "label_emb.0.0.weight", "input_blocks.1.1.norm.weight"}), "unCLIP"));
  CHECK(contains(refused({"input_blocks.0.0.weight", "input_blocks.1.1.norm.weight"}), "a Stable Diffusion 2 checkpoint"));
  CHECK(contains(refused({"input_blocks.0.0.weight"}), "neither 'input_blocks.1.1.norm.weight' (Stable Diffusion 1)"));
}

TEST_CASE("a file of something else says what was looked for and what was found") {
  std::string message = refused({"some.thing", "other.thing"});
  CHECK(contains(message, "it.safetensors: no kind of weights that we know"));
  CHECK(contains(message, "input_blocks.0.0.weight"));
  CHECK(contains(message, "found 2 tensors, such as 'other.thing', 'some.thing'"));
}

/// A text encoder with these tensors more.
std::string refused_component(std::map<std::string, Tensor> more) {
  TemporaryFolder folder;
  more["encoder.block.0.layer.1.DenseReluDense.wi_1.weight"] = Tensor(DType::f8e4m3, {2, 2});
  write_safetensors(folder / "t5.safetensors", more);
  return refusal([&] { open_component(folder / "t5.safetensors", Component::T5); });
}
Tensor bytes_of(const std::string& text) {
  Tensor bytes(DType::u8, {int64_t(text.size())});
  std::copy_n(reinterpret_cast<const std::byte*>(text.data()), text.size(), bytes.data());
  return bytes;
}

TEST_CASE("8-bit floats with scales are opened, other ways to keep weights in few bits are named") {
  CHECK(refused_component({{"scaled_fp8", Tensor(DType::f8e4m3, {0})}, {"a.scale_weight", Tensor(DType::f32, {})}}) ==
        "accepted");
  CHECK(refused_component({{"a.comfy_quant", bytes_of(R"({"format": "float8_e4m3fn"})")}}) == "accepted");
  CHECK(contains(refused_component({{"a.comfy_quant", bytes_of(R"({"format": "nvfp4"})")}}),
                 "weights in the format 'nvfp4' ('a.comfy_quant'): not supported yet"));
  CHECK(contains(refused_component({{"a.comfy_quant", bytes_of("[")}}), "weights in the format 'without a name'"));
  CHECK(contains(refused_component({{"a.weight_scale_2", Tensor(DType::f32, {})}}),
                 "scales of several levels ('a.weight_scale_2')"));
}

TEST_CASE("a component is asked of a file that has another") {
  TemporaryFolder folder;
  put(folder / "vae.safetensors", {"decoder.conv_in.weight"});
  CHECK(!open_component(folder / "vae.safetensors", Component::Vae).empty());
  CHECK(contains(refusal([&] { open_component(folder / "vae.safetensors", Component::T5); }), "has no t5; it has vae"));
  CHECK(contains(refusal([&] { open_model(folder / "vae.safetensors"); }),
                 "is an autoencoder for pictures, where a model is expected"));
}

TEST_CASE("families are sorted, named once, and found by name") {
  for (size_t i = 1; i < families().size(); ++i) CHECK(families()[i - 1]->name < families()[i]->name);
  CHECK(&find_family("sdxl") == &sdxl_family);
  CHECK(contains(refusal([] { find_family("sd9"); }),
                 "no family of models named 'sd9'; there are flux1-dev, flux1-schnell, sd15, sdxl"));
}

TEST_CASE("every golden checkpoint is what its name says") {
  struct Expected {
    const char* file;
    const Family* family;
    std::set<Component> components;
  };
  for (const Expected& expected :
       {Expected{"tiny_sd15", &sd15_family, {Component::Denoiser, Component::Vae, Component::ClipL}},
        Expected{"tiny_sdxl", &sdxl_family, {Component::Denoiser, Component::Vae, Component::ClipL, Component::ClipG}},
        Expected{"tiny_flux_dev", &flux1_dev_family, {Component::Denoiser}}}) {
    std::string path = golden("checkpoints/" + std::string(expected.file) + ".safetensors");
    if (path.empty()) continue;
    ModelParts model = open_model(path);
    CHECK(model.family == expected.family);
    CHECK(model.prediction == expected.family->prediction);
    std::set<Component> components;
    for (auto& [component, weights] : model.components) components.insert(component);
    CHECK(components == expected.components);
  }
  auto kind = [&](const char* file) { return detect_family(Checkpoint::open(file)); };
  if (std::string t5 = golden("checkpoints/tiny_t5xxl.safetensors"); !t5.empty())
    CHECK(kind(t5.c_str()).component == Component::T5);
  if (std::string ae = golden("checkpoints/tiny_flux_ae.safetensors"); !ae.empty())
    CHECK(kind(ae.c_str()).component == Component::Vae);
  if (std::string lora = golden("loras/tiny_sd15_lycoris.safetensors"); !lora.empty())
    CHECK(kind(lora.c_str()).content == FileContent::Lora);
  if (std::string ti = golden("embeddings/tiny_ti.safetensors"); !ti.empty())
    CHECK(kind(ti.c_str()).content == FileContent::TextualInversion);
  for (const char* other : {"tiny_wan21_t2v", "tiny_wan21_vae", "tiny_umt5xxl"})
    if (std::string path = golden("checkpoints/" + std::string(other) + ".safetensors"); !path.empty())
      CHECK(contains(refusal([&] { kind(path.c_str()); }), "not supported yet"));
}

TEST_CASE("XL checkpoints say by keys without weights what they predict") {
  std::string path = golden("checkpoints/tiny_sdxl.safetensors");
  if (path.empty()) return;
  Checkpoint original = Checkpoint::open(path);
  auto with_keys = [&](const std::vector<std::string>& keys) {
    Tensors tensors;
    for (const char* name : {"input_blocks.0.0.weight", "label_emb.0.0.weight"}) {
      std::string full = "model.diffusion_model." + std::string(name);
      tensors[full] = original.tensor(full);
    }
    for (int i = 0; i < 6; ++i) tensors["model.diffusion_model.filler." + std::to_string(i)] = Tensor(DType::f32, {1});
    for (const std::string& key : keys) tensors[key] = Tensor(DType::f32, {0});
    TemporaryFolder folder;
    write_safetensors(folder / "xl.safetensors", tensors);
    return open_model(folder / "xl.safetensors");
  };
  CHECK(with_keys({}).prediction == Prediction::Epsilon);
  CHECK(with_keys({"v_pred"}).prediction == Prediction::Velocity);
  CHECK(!with_keys({"v_pred"}).zero_terminal_snr);
  CHECK(with_keys({"v_pred", "ztsnr"}).zero_terminal_snr);
  CHECK(contains(refusal([&] { with_keys({"edm_mean", "edm_std"}); }), "EDM"));
}

/// One network of a single-file checkpoint as a component of a pipeline, where both layouts have the same names.
void put_component(const fs::path& folder, const char* name, const Weights& weights) {
  fs::create_directories(folder / name);
  Tensors tensors;
  for (const std::string& tensor : weights.names()) tensors[tensor] = weights.load(tensor);
  write_safetensors(folder / name / "model.safetensors", tensors);
}

TEST_CASE("a pipeline folder is a model of the networks in its folders") {
  std::string path = golden("checkpoints/tiny_sd15.safetensors");
  if (path.empty()) return;
  ModelParts single = open_model(path);
  TemporaryFolder folder;
  write_atomically(folder / "model_index.json", "{}");
  put_component(folder.path(), "unet", single.weights(Component::Denoiser));
  put_component(folder.path(), "text_encoder", single.weights(Component::ClipL));
  ModelParts pipeline = open_model(folder.path());
  CHECK(pipeline.family == &sd15_family);
  CHECK(pipeline.prediction == Prediction::Epsilon);
  CHECK(pipeline.weights(Component::ClipL).names() == single.weights(Component::ClipL).names());
  CHECK(pipeline.weights(Component::Denoiser).names() == single.weights(Component::Denoiser).names());
  CHECK(contains(refusal([&] { pipeline.weights(Component::Vae); }), "has no vae; give a file that has it with --vae"));

  fs::create_directories(folder / "scheduler");
  auto with_scheduler = [&](const char* config) {
    write_atomically(folder / "scheduler" / "scheduler_config.json", config);
    return open_model(folder.path());
  };
  ModelParts velocity = with_scheduler(R"({"prediction_type": "v_prediction", "rescale_betas_zero_snr": true})");
  CHECK(velocity.prediction == Prediction::Velocity);
  CHECK(velocity.zero_terminal_snr);
  CHECK(with_scheduler(R"({"prediction_type": "epsilon"})").prediction == Prediction::Epsilon);
  CHECK(contains(refusal([&] { with_scheduler(R"({"prediction_type": "sample"})"); }), "a network that predicts 'sample'"));
  CHECK(contains(refusal([&] { with_scheduler("[1"); }), "a JSON object was expected"));
}

TEST_CASE("a pipeline folder without a denoiser is refused") {
  TemporaryFolder folder;
  write_atomically(folder / "model_index.json", "{}");
  CHECK(contains(refusal([&] { open_model(folder.path()); }), "a pipeline without a denoiser"));
}

}  // namespace
}  // namespace sinter
