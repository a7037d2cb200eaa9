#include "pipelines/image_model.h"

#include <algorithm>
#include <cmath>

#include "compiler/lowering/fp8_attention.h"
#include "models/clip.h"
#include "models/flux.h"
#include "models/unet.h"
#include "models/vae_image.h"
#include "pipelines/image_model_parts.h"

namespace sinter {
using namespace image_model;
namespace {

ModelSampling make_sampling(const ModelParts& parts, const ModelOptions& options) {
  const Family& family = *parts.family;
  if (family.defaults.guidance > 0) return ModelSampling::flux(family.defaults.shift);
  if (is_flux(family)) return ModelSampling::discrete_flow(family.defaults.shift, 1);
  return ModelSampling::stable_diffusion(options.prediction.value_or(parts.prediction),
                                         options.zero_terminal_snr || parts.zero_terminal_snr);
}

}  // namespace

ImageModel::~ImageModel() = default;

ImageModel::ImageModel(Session& session, const ModelFiles& files, const ModelOptions& options)
    : session_(session),
      files_(files),
      options_(options),
      parts_(open_model(files.model, files.variant)),
      sampling_(make_sampling(parts_, options)) {
  auto add = [&](const std::filesystem::path& path, Component component) {
    if (!path.empty()) parts_.components[component] = open_component(path, component, files.variant);
  };
  add(files.clip_l, Component::ClipL);
  add(files.clip_g, Component::ClipG);
  add(files.t5, Component::T5);
  add(files.vae, Component::Vae);
  VocabularySearch search{files.clip_vocabulary, files.model, files.comfyui, default_data_folder()};
  clip_tokenizer_ = std::make_unique<ClipTokenizer>(load_clip_tokenizer(find_vocabulary(VocabularyKind::Clip, search)));
  search.given = files.t5_vocabulary;
  if (is_flux(family()))
    t5_tokenizer_ = std::make_unique<T5Tokenizer>(load_t5_tokenizer(find_vocabulary(VocabularyKind::T5, search)));
  build_text_encoders(0);
  build_denoiser();
  build_vae();
}

BuildOptions ImageModel::build_options(const Weights& weights) const {
  BuildOptions build{options_.compute, {}};
  if (options_.weights) {
    build.storage = [type = *options_.weights](const std::string&) { return type; };
  } else {
    build.storage = [&weights, compute = options_.compute](const std::string& name) {
      // A missing weight is reported, with all others, by check_weights.
      DType type = weights.has(name) ? weights.dtype(name) : compute;
      return type == DType::f64 || !is_float(type) ? DType::f32 : type;
    };
  }
  return build;
}

/// In which a weight of that type is stored when LoRAs have changed it: its own, as the reference does.
DType ImageModel::merged_type(DType type) const {
  DType stored = options_.weights.value_or(type);
  return byte_size(stored) == 2 && is_float(stored) ? stored : DType::f32;
}

std::unique_ptr<Network> ImageModel::make_network(Component component, const std::string& label, std::unique_ptr<Graph> graph) {
  const Weights& weights = parts_.weights(component);
  check_weights(weights_of(*graph), weights);
  auto read = [this, component, &weights](const std::string& name) {
    Tensor tensor = weights.load(name);
    if (!loras_.changes(component, name)) return tensor;
    return loras_.apply(component, name, tensor, session_.engine().pool(), merged_type(tensor.dtype()));
  };
  auto scaled = [this, component, &weights](const std::string& name) -> std::optional<ScaledRows> {
    auto rows = loras_.changes(component, name) ? std::nullopt : weights.scaled(name);
    if (!rows) return {};
    return ScaledRows{std::move(rows->rows), std::move(rows->scales)};
  };
  auto changed = [this, component, &weights](const std::string& name) -> std::optional<ChangedWeight> {
    if (!loras_.changes(component, name)) return {};
    Tensor original = weights.load(name);
    auto products = loras_.products(component, name, original);
    if (!products || merged_type(original.dtype()) != original.dtype()) return {};
    return ChangedWeight{std::move(original), std::move(*products)};
  };
  bool denoiser = component == Component::Denoiser;
  int64_t fp8_width = options_.fp8 && denoiser ? kFp8Width : 0, fp8_keys = options_.fp8_attention && denoiser ? kFp8Keys : 0;
  auto done = [&weights](const std::string& name) { weights.drop(name); };
  return std::make_unique<Network>(session_, label, std::move(graph), WeightReader(read, scaled, changed), done, fp8_width,
                                   fp8_keys);
}

std::string ImageModel::why_no_fp8_attention() const { return sinter::why_no_fp8_attention(denoiser_->graph(), kFp8Keys); }

/// Models that see a picture or a mask beside the latent are of a family by their names, and a pipeline for them is lacking.
void ImageModel::refuse_other_inputs(int64_t channels) const {
  int64_t usual = family().latent.channels;
  if (channels == usual) return;
  const char* kind = channels == 2 * usual + 1 ? "a model for inpainting"
                     : channels == 2 * usual   ? "a model for editing pictures"
                                               : "a model for other inputs";
  fail(Code::Unsupported,
       "{}: {} of the family {}: it takes {} channels where {} are the latent's, and cannot draw from a prompt alone; give a "
       "checkpoint for text to image, with --init where a picture is to be changed",
       parts_.weights(Component::Denoiser).path(), kind, family().name, channels, usual);
}

void ImageModel::build_denoiser() {
  const Weights& weights = parts_.weights(Component::Denoiser);
  auto graph = std::make_unique<Graph>();
  if (is_flux(family())) {
    FluxConfig config = detect_flux(weights);
    refuse_other_inputs(config.in_channels);
    build_flux(*graph, config, {kBatch, kHeight, kWidth, kText}, build_options(weights));
  } else {
    UnetConfig config = detect_unet(weights);
    refuse_other_inputs(config.in_channels);
    build_unet(*graph, config, {kBatch, kHeight, kWidth, kText}, build_options(weights));
  }
  std::vector<SteadyInputs> steady = {{"prompt", {"context"}, true}, {"timestep", {"timestep", "timesteps", "guidance", "y"}}};
  denoiser_ = std::make_unique<HoistedNetwork>("the denoiser", std::move(graph), steady,
                                               [&](const std::string& label, std::unique_ptr<Graph> part) {
                                                 return make_network(Component::Denoiser, label, std::move(part));
                                               });
}

void ImageModel::build_vae() {
  const Weights& weights = parts_.weights(Component::Vae);
  VaeConfig config = detect_vae(weights);
  if (config.latent_channels != family().latent.channels)
    fail(Code::InvalidArgument, "the autoencoder in {} has {} latent channels, the {} model has {}", weights.path(),
         config.latent_channels, family().name, family().latent.channels);
  scale_ = config.scale();
  auto decoder = std::make_unique<Graph>();
  build_vae_decoder(*decoder, config, kBatch, kHeight, kWidth, build_options(weights));
  vae_decoder_ = make_network(Component::Vae, "the decoder", std::move(decoder));
  if (!config.has_encoder) return;
  auto encoder = std::make_unique<Graph>();
  build_vae_encoder(*encoder, config, kBatch, kPictureHeight, kPictureWidth, build_options(weights));
  vae_encoder_ = make_network(Component::Vae, "the encoder", std::move(encoder));
}

std::vector<std::string> ImageModel::set_loras(const std::vector<LoraRequest>& requests) {
  std::vector<LoraNetwork> networks{{Component::Denoiser, weights_of(denoiser_->graph())}};
  for (Component component : family().text_encoders) {
    // All layers, also those that the run does not need: a LoRA may have them.
    Graph whole;
    const Weights& weights = parts_.weights(component);
    if (component == Component::T5)
      build_t5(whole, detect_t5(weights), kBatch, kText);
    else
      build_clip(whole, detect_clip(weights, component == Component::ClipG ? ClipKind::g : ClipKind::l), kBatch,
                 {{ClipOutput::hidden, "hidden"}});
    networks.push_back({component, weights_of(whole)});
  }
  std::vector<AppliedLora> applied;
  std::vector<std::string> warnings;
  for (const LoraRequest& request : requests) {
    auto file = std::make_shared<LoraFile>(LoraFile::open(request.file, networks));
    warnings.insert(warnings.end(), file->warnings.begin(), file->warnings.end());
    applied.push_back({file, request.model_strength, request.text_strength});
  }
  LoraStack next(std::move(applied));
  auto update = [&](Component component, auto& network) {
    std::set<std::string> changed;
    for (const WeightUse& use : weights_of(network.graph()))
      if (loras_.changes(component, use.name) || next.changes(component, use.name)) changed.insert(use.name);
    network.weights_changed(changed);
  };
  update(Component::Denoiser, *denoiser_);
  for (auto& encoder : encoders_) update(encoder->component, *encoder->network);
  loras_ = std::move(next);
  return warnings;
}

Tensor ImageModel::encode_image(const Tensor& pixels) {
  if (!vae_encoder_)
    fail(Code::NotFound, "the autoencoder in {} has no encoder; pictures cannot be taken in",
         parts_.weights(Component::Vae).path());
  int64_t height = pixels.dim(1) / scale() * scale(), width = pixels.dim(2) / scale() * scale();
  int64_t top = (pixels.dim(1) - height) / 2, left = (pixels.dim(2) - width) / 2;
  if (height == 0 || width == 0)
    fail(Code::InvalidArgument, "a picture of {} x {} is too small: {} x {} is the least", pixels.dim(2), pixels.dim(1), scale(),
         scale());
  Tensor x(DType::f32, {pixels.dim(0), 3, height, width});
  for (int64_t b = 0; b < pixels.dim(0); ++b)
    for (int64_t c = 0; c < 3; ++c)
      for (int64_t i = 0; i < height; ++i)
        for (int64_t j = 0; j < width; ++j)
          x.f32()[size_t(((b * 3 + c) * height + i) * width + j)] =
              2 * pixels.f32()[size_t(((b * pixels.dim(1) + top + i) * pixels.dim(2) + left + j) * 3 + c)] - 1;
  return vae_encoder_->run({{"x", x}}).at(0);
}

Tensor ImageModel::decode_once(const Tensor& latent, const std::optional<DecodeTiles>& tiles) {
  auto whole = [&](const Tensor& z) { return vae_decoder_->run({{"z", z}}).at(0); };
  return tiles ? decode_in_tiles(latent, *tiles, scale(), whole) : whole(latent);
}

/// Somebody has taken memory since the run was planned.
Tensor ImageModel::decode_with_less(const Tensor& latent, const std::optional<DecodeTiles>& tiles, const Error& why) {
  unload_text_encoders();
  unload_denoiser();
  unload_encoder();
  int64_t largest = std::max(latent.dim(2), latent.dim(3));
  std::vector<std::optional<DecodeTiles>> ways{tiles};
  for (int64_t tile : kTiles)
    if (tile < (tiles ? tiles->tile : largest)) ways.emplace_back(overlapping(tile));
  for (const auto& way : ways) try {
      Tensor out = decode_once(latent, way);
      session_.engine().note(
          "decode", way == tiles
                        ? "memory became short: weights were given back before decoding"
                        : fmt::format("memory became short: the picture is decoded in tiles of {} pixels", way->tile * scale()));
      return out;
    } catch (const Error& e) {
      if (e.code() != Code::OutOfMemory) throw;
    }
  throw why;
}

Tensor ImageModel::decode(const Tensor& latent, const std::optional<DecodeTiles>& tiles) {
  auto decoded = [&] {
    try {
      return decode_once(latent, tiles);
    } catch (const Error& e) {
      if (e.code() != Code::OutOfMemory) throw;
      return decode_with_less(latent, tiles, e);
    }
  };
  Tensor out = decoded();
  int64_t batch = out.dim(0), channels = out.dim(1), height = out.dim(2), width = out.dim(3);
  Tensor pixels(DType::f32, {batch, height, width, channels});
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < height * width; ++i) {
        float v = out.f32()[size_t((b * channels + c) * height * width + i)];
        // NaN stays NaN: the picture's writer decides what to do about it.
        pixels.f32()[size_t((b * height * width + i) * channels + c)] = std::isnan(v) ? v : std::clamp((v + 1) / 2, 0.0f, 1.0f);
      }
  return pixels;
}

std::vector<int64_t> ImageModel::latent_shape(int64_t batch, int64_t width, int64_t height) const {
  return {batch, family().latent.channels, height / scale(), width / scale()};
}

void ImageModel::unload_text_encoders() {
  for (auto& encoder : encoders_) encoder->network->unload_weights();
}
void ImageModel::unload_denoiser() { denoiser_->unload_weights(); }
void ImageModel::unload_encoder() {
  if (vae_encoder_) vae_encoder_->unload_weights();
}

}  // namespace sinter
