#include "models/checkpoint_names.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "models/key_maps.h"

namespace sinter {
namespace {

namespace fs = std::filesystem;

// Denoisers.

/// Where the denoiser's names begin in this file.
std::string denoiser_prefix(const std::vector<std::string>& names) {
  constexpr int64_t kEnough = 5;
  std::string best;
  int64_t most = kEnough;
  for (std::string prefix : {"model.diffusion_model.", "model.model.", "net."}) {
    int64_t count = std::count_if(names.begin(), names.end(), [&](const std::string& name) { return name.starts_with(prefix); });
    if (count > most) most = count, best = prefix;
  }
  return best;
}

/// Models that we can name and not run. Some share names with a family, hence this list is looked at first.
struct KnownModel {
  const char* tensor;
  const char* words;
};
constexpr KnownModel kOtherDenoisers[] = {
    {"joint_blocks.0.context_block.attn.qkv.weight", "an SD3 checkpoint"},
    {"clf.1.weight", "a Stable Cascade checkpoint"},
    {"transformer.rotary_pos_emb.inv_freq", "a Stable Audio checkpoint"},
    {"double_layers.0.attn.w1q.weight", "an AuraFlow checkpoint"},
    {"mlp_t5.0.weight", "a Hunyuan DiT checkpoint"},
    {"txt_in.individual_token_refiner.blocks.0.norm1.weight", "a HunyuanVideo checkpoint"},
    {"distilled_guidance_layer.norms.0.scale", "a Chroma checkpoint"},
    {"t5_yproj.weight", "a Mochi checkpoint"},
    {"adaln_single.emb.timestep_embedder.linear_1.bias", "an LTX-Video or PixArt checkpoint"},
    {"genre_embedder.weight", "an ACE-Step checkpoint"},
    {"t_block.1.weight", "a PixArt checkpoint"},
    {"blocks.block0.blocks.0.block.attn.to_q.0.weight", "a Cosmos checkpoint"},
    {"cap_embedder.1.weight", "a Lumina 2 checkpoint"},
    {"head.modulation", "a Wan checkpoint"},
    {"condition_embedder.time_embedder.linear_1.weight", "a Wan checkpoint in diffusers layout"},
    {"latent_in.weight", "a Hunyuan3D checkpoint"},
    {"t_embedder.mlp.2.weight", "a HiDream checkpoint"},
    {"blocks.0.mlp.layer1.weight", "a Cosmos Predict 2 checkpoint"},
    {"time_caption_embed.timestep_embedder.linear_1.bias", "an OmniGen 2 checkpoint"},
    {"txt_norm.weight", "a Qwen Image checkpoint"},
};
constexpr KnownModel kOtherAutoencoders[] = {
    {"decoder.mid.block_1.mix_factor", "the autoencoder of Stable Video Diffusion"},
    {"taesd_decoder.1.weight", "a TAESD autoencoder"},
    {"vquantizer.codebook.weight", "the autoencoder of Stable Cascade"},
    {"decoder.up_blocks.0.res_blocks.0.conv1.conv.weight", "the autoencoder of LTX-Video"},
    {"decoder.conv_in.conv.weight", "the autoencoder of HunyuanVideo"},
    {"decoder.unpatcher3d.wavelets", "the autoencoder of Cosmos"},
    {"decoder.middle.0.residual.0.gamma", "the autoencoder of Wan"},
};
constexpr KnownModel kOtherTextEncoders[] = {
    {"encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight", "a UMT5 text encoder"},
    {"encoder.block.0.layer.1.DenseReluDense.wi.weight", "a text encoder of the first T5"},
    {"model.layers.0.post_feedforward_layernorm.weight", "a Gemma text encoder"},
    {"model.layers.0.self_attn.k_proj.bias", "a Qwen text encoder"},
    {"model.layers.0.post_attention_layernorm.weight", "a Llama text encoder"},
};
[[noreturn]] void fail_unsupported(const std::string& path, const std::string& what) {
  fail(Code::Unsupported, "{}: {}: not supported yet", path, what);
}

void refuse(const std::string& path, std::span<const KnownModel> known, const auto& names) {
  for (const KnownModel& model : known)
    if (names.has(model.tensor)) fail_unsupported(path, model.words);
}

/// The variants of families that we know and do not run.
void refuse_variants(const Weights& w) {
  std::string path = w.path();
  if (w.has("double_blocks.0.img_attn.norm.key_norm.scale"))
    fail_unsupported(path, "a FLUX.1 checkpoint for filling or control, or an incomplete one");
  if (!w.has("input_blocks.0.0.weight")) return;
  bool attends_at_once = w.has("input_blocks.1.1.norm.weight"), has_vector = w.has("label_emb.0.0.weight");
  if (!has_vector && !attends_at_once)
    fail(Code::Unsupported,
         "{}: a U-Net of no kind that we know, or an incomplete one: neither 'input_blocks.1.1.norm.weight' (Stable Diffusion 1) "
         "nor 'label_emb.0.0.weight' (XL) is there",
         path);
  if (!has_vector) fail_unsupported(path, "a Stable Diffusion 2 checkpoint");
  if (attends_at_once) fail_unsupported(path, "a Stable Diffusion 2 unCLIP checkpoint");
  fail_unsupported(path, "a Stable Diffusion XL refiner");
}

bool is_denoiser(const Weights& w) {
  if (w.has("input_blocks.0.0.weight") || w.has("double_blocks.0.img_attn.norm.key_norm.scale")) return true;
  return std::any_of(std::begin(kOtherDenoisers), std::end(kOtherDenoisers), [&](auto& known) { return w.has(known.tensor); });
}

/// The denoiser of the file; no weights where it has none.
Weights find_denoiser(const Checkpoint& file) {
  for (const std::string& prefix : {denoiser_prefix(file.names()), std::string("model.")}) {
    Weights weights = denoiser_weights(prefix.empty() ? file : file.prefix(prefix));
    if (is_denoiser(weights)) return weights;
  }
  return {};
}

/// 8-bit floats with one scale, or one a row, are read; of other ways to keep weights in few bits we know only the names.
void refuse_other_quantisation(const Weights& w) {
  const Checkpoint& file = w.checkpoint();
  for (const std::string& name : file.names()) {
    for (std::string_view mark : {".weight_scale_2", ".pre_quant_scale"})
      if (name.ends_with(mark)) fail_unsupported(w.path(), "weights with scales of several levels ('" + name + "')");
    if (!name.ends_with(".comfy_quant")) continue;
    Tensor text = file.tensor(name);
    auto* begin = reinterpret_cast<const char*>(text.data());
    auto json = nlohmann::json::parse(begin, begin + text.bytes(), nullptr, false);
    bool named = json.is_object() && json.contains("format") && json["format"].is_string();
    std::string format = named ? json["format"].get<std::string>() : "without a name";
    if (format != "float8_e4m3fn" && format != "float8_e5m2")
      fail_unsupported(w.path(), "weights in the format '" + format + "' ('" + name + "')");
  }
}

const Family& family_of(const Weights& denoiser) {
  refuse(denoiser.path(), kOtherDenoisers, denoiser);
  for (const Family* family : families())
    if (family->detect(denoiser)) return *family;
  refuse_variants(denoiser);
  SINTER_ASSERT(false);
}

// Other networks.

std::optional<Component> text_encoder_kind(const Weights& clip, const Checkpoint& c) {
  constexpr int64_t kClipGLayers = 31, kClipHLayers = 23;
  if (c.has("encoder.block.0.layer.1.DenseReluDense.wi_1.weight")) return Component::T5;
  auto has_layers = [&](int64_t count) {
    return clip.has("text_model.encoder.layers." + std::to_string(count - 1) + ".mlp.fc1.weight");
  };
  if (!has_layers(1)) return {};
  if (has_layers(kClipGLayers)) return Component::ClipG;
  if (has_layers(kClipHLayers)) fail_unsupported(clip.path(), "a CLIP-H text encoder");
  return Component::ClipL;
}

bool is_autoencoder(const Weights& w) { return w.has("decoder.conv_in.weight") || w.has("encoder.conv_in.weight"); }

bool is_lora(const std::vector<std::string>& names) {
  constexpr std::string_view kMarks[] = {".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".lora_B.weight",
                                         ".lora.down.weight", ".lora.up.weight", ".hada_w1_a",     ".lokr_w1",
                                         ".lokr_w1_a",        ".oft_blocks",     ".dora_scale",    "_lora.down.weight"};
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return std::any_of(std::begin(kMarks), std::end(kMarks), [&](std::string_view mark) { return name.ends_with(mark); });
  });
}

/// A few vectors: under the names that trainers use, or alone under the word that they stand for.
bool is_textual_inversion(const Checkpoint& c, const std::vector<std::string>& names) {
  bool named = c.has("emb_params") || (c.has("clip_l") && c.has("clip_g")) ||
               std::any_of(names.begin(), names.end(), [](auto& name) { return name.starts_with("string_to_param"); });
  if (named || names.size() != 1) return named;
  size_t rank = c.find(names[0])->shape.size();
  return names[0].find('.') == std::string::npos && (rank == 1 || rank == 2);
}

[[noreturn]] void fail_unknown(const Checkpoint& c, const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  std::string shown;
  for (size_t i = 0; i < std::min(kShown, names.size()); ++i) shown += (i ? ", '" : " '") + names[i] + "'";
  fail(Code::Unsupported,
       "{}: no kind of weights that we know. Looked for a U-Net ('input_blocks.0.0.weight', or 'conv_in.weight' with "
       "down_blocks), "
       "a FLUX transformer ('double_blocks.0.img_attn.norm.key_norm.scale', or 'x_embedder.weight' with "
       "single_transformer_blocks), CLIP ('text_model.encoder.layers.0...' or 'transformer.resblocks.0...'), "
       "T5 ('encoder.block.0...'), an autoencoder ('decoder.conv_in.weight'), a LoRA ('...lora_down.weight' and the like) and an "
       "embedding ('emb_params'); found {} tensors{}{}",
       c.path().string(), names.size(), names.empty() ? "" : ", such as", shown);
}

std::string summary_of(Component component) {
  switch (component) {
    case Component::ClipL:
      return "a CLIP-L text encoder";
    case Component::ClipG:
      return "a CLIP-G text encoder";
    case Component::T5:
      return "a T5 text encoder";
    case Component::Vae:
      return "an autoencoder for pictures";
    case Component::Denoiser:
      return "a denoiser";
  }
  SINTER_ASSERT(false);
}

// Parts of a model.

struct Place {
  const char* prefix;
  Component component;
};
constexpr Place kPlaces[] = {
    {"first_stage_model.", Component::Vae},
    {"vae.", Component::Vae},
    {"cond_stage_model.transformer.", Component::ClipL},
    {"conditioner.embedders.0.transformer.", Component::ClipL},
    {"text_encoders.clip_l.transformer.", Component::ClipL},
    {"conditioner.embedders.1.model.", Component::ClipG},
    {"text_encoders.clip_g.transformer.", Component::ClipG},
    {"text_encoders.t5xxl.transformer.", Component::T5},
};

Weights component_weights(const Checkpoint& network, Component component) {
  switch (component) {
    case Component::Denoiser:
      return denoiser_weights(network);
    case Component::Vae:
      return vae_weights(network);
    case Component::ClipL:
    case Component::ClipG:
      return clip_weights(network);
    case Component::T5:
      return t5_weights(network);
  }
  SINTER_ASSERT(false);
}

/// Keys without weights in them by which trainers of XL say what the network predicts.
void read_prediction_keys(const Checkpoint& file, ModelParts& parts) {
  if (parts.family != &sdxl_family) return;
  if ((file.has("edm_mean") && file.has("edm_std")) || file.has("edm_vpred.sigma_max"))
    fail_unsupported(file.path().string(), "a Stable Diffusion XL checkpoint of the EDM kind (Playground)");
  if (!file.has("v_pred")) return;
  parts.prediction = Prediction::Velocity;
  parts.zero_terminal_snr = file.has("ztsnr");
}

void set_family(ModelParts& parts, const Family& family) {
  parts.family = &family;
  parts.prediction = family.prediction;
}

/// Everything that the file has, be it a model or one network.
ModelParts parts_of(const Checkpoint& file) {
  ModelParts parts;
  parts.path = file.path();
  Detected detected = detect_family(file);
  bool is_network = detected.content == FileContent::TextEncoder || detected.content == FileContent::Vae;
  if (is_network)
    refuse_other_quantisation(
        parts.components.emplace(detected.component, component_weights(file, detected.component)).first->second);
  if (detected.content != FileContent::Model) return parts;
  set_family(parts, *detected.family);
  parts.components.emplace(Component::Denoiser, find_denoiser(file));
  for (const Place& place : kPlaces) {
    Checkpoint network = file.prefix(place.prefix);
    if (network.size() > 0) parts.components.try_emplace(place.component, component_weights(network, place.component));
  }
  for (auto& [component, weights] : parts.components) refuse_other_quantisation(weights);
  read_prediction_keys(file, parts);
  return parts;
}

/// What the pipeline's scheduler says about the network.
void read_scheduler_config(const fs::path& folder, ModelParts& parts) {
  fs::path path = folder / "scheduler" / "scheduler_config.json";
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return;
  constexpr uint64_t kLimit = 1 << 20;
  auto config = nlohmann::json::parse(read_file(path, kLimit), nullptr, false);
  if (!config.is_object()) fail(Code::Corrupt, "{}: a JSON object was expected", path.string());
  auto text = [&](const char* key) {
    return config.contains(key) && config[key].is_string() ? config[key].get<std::string>() : std::string();
  };
  std::string prediction = text("prediction_type");
  bool flow = parts.family->prediction == Prediction::Flow;
  if (prediction == "v_prediction" && !flow)
    parts.prediction = Prediction::Velocity;
  else if (!prediction.empty() && prediction != "epsilon" && !flow)
    fail_unsupported(path.string(), "a network that predicts '" + prediction + "' (epsilon and v_prediction are)");
  const char* key = "rescale_betas_zero_snr";
  parts.zero_terminal_snr = !flow && config.contains(key) && config[key].is_boolean() && config[key].get<bool>();
}

bool is_pipeline(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path / "model_index.json", ignored);
}

ModelParts open_pipeline(const fs::path& folder, const std::string& variant) {
  ModelParts all;
  all.path = folder;
  for (const char* name : {"unet", "transformer", "vae", "text_encoder", "text_encoder_2"}) {
    std::error_code ignored;
    if (!fs::is_directory(folder / name, ignored)) continue;
    ModelParts parts = parts_of(Checkpoint::open(folder / name, variant));
    if (parts.family) set_family(all, *parts.family);
    all.components.merge(parts.components);
  }
  if (all.family) read_scheduler_config(folder, all);
  return all;
}

ModelParts open_parts(const fs::path& path, const std::string& variant) {
  return is_pipeline(path) ? open_pipeline(path, variant) : parts_of(Checkpoint::open(path, variant));
}

}  // namespace

Detected detect_family(const Checkpoint& c) {
  std::vector<std::string> names = c.names();
  if (is_lora(names)) return {FileContent::Lora, nullptr, Component::Denoiser, "a LoRA"};
  if (is_textual_inversion(c, names)) return {FileContent::TextualInversion, nullptr, Component::ClipL, "an embedding"};
  if (Weights denoiser = find_denoiser(c); !denoiser.empty()) {
    const Family& family = family_of(denoiser);
    return {FileContent::Model, &family, Component::Denoiser, "a model: " + std::string(family.summary)};
  }
  std::string path = c.path().string();
  refuse(path, kOtherTextEncoders, c);
  if (auto kind = text_encoder_kind(clip_weights(c), c)) return {FileContent::TextEncoder, nullptr, *kind, summary_of(*kind)};
  refuse(path, kOtherAutoencoders, c);
  if (is_autoencoder(vae_weights(c))) return {FileContent::Vae, nullptr, Component::Vae, summary_of(Component::Vae)};
  fail_unknown(c, names);
}

const Weights& ModelParts::weights(Component component) const {
  auto found = components.find(component);
  if (found == components.end())
    fail(Code::NotFound, "{} has no {}; give a file that has it with --{}", path.string(), sinter::name(component),
         sinter::name(component));
  return found->second;
}

ModelParts open_model(const fs::path& path, const std::string& variant) {
  ModelParts parts = open_parts(path, variant);
  if (parts.family) return parts;
  std::string what = is_pipeline(path) ? "a pipeline without a denoiser (no 'unet' and no 'transformer' folder)"
                                       : detect_family(Checkpoint::open(path, variant)).summary;
  fail(Code::InvalidArgument, "{} is {}, where a model is expected", path.string(), what);
}

Weights open_component(const fs::path& path, Component component, const std::string& variant) {
  ModelParts parts = open_parts(path, variant);
  if (parts.has(component)) return parts.weights(component);
  std::string found;
  for (auto& [part, weights] : parts.components) found += (found.empty() ? "" : ", ") + std::string(name(part));
  fail(Code::InvalidArgument, "{} has no {}; it has {}", path.string(), name(component), found.empty() ? "no network" : found);
}

}  // namespace sinter
