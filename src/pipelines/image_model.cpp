#include "pipelines/image_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "models/clip.h"
#include "models/flux.h"
#include "models/t5.h"
#include "models/unet.h"
#include "models/vae_image.h"
#include "pipelines/image_model_parts.h"
#include "tensor/random.h"

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

/// Rows of several tensors of one row shape, one behind the other.
Tensor stack(const std::vector<Tensor>& parts) {
  std::vector<int64_t> shape = parts[0].shape();
  shape[0] = 0;
  for (const Tensor& part : parts) shape[0] += part.dim(0);
  Tensor out(parts[0].dtype(), shape);
  int64_t row = 0;
  for (const Tensor& part : parts) {
    std::copy_n(part.data(), part.bytes(), out.rows(row, row + part.dim(0)).data());
    row += part.dim(0);
  }
  return out;
}

/// [1, ...] repeated to [n, ...].
Tensor repeat(const Tensor& one, int64_t n) { return stack(std::vector<Tensor>(size_t(n), one)); }

/// [1, tokens, width] with the tokens repeated to a multiple of their number: softmax attention does not see the difference.
Tensor repeat_tokens(const Tensor& context, int64_t tokens) {
  Tensor rows = context.reshaped({context.dim(1), context.dim(2)});
  return stack(std::vector<Tensor>(size_t(tokens / context.dim(1)), rows)).reshaped({1, tokens, context.dim(2)});
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

std::unique_ptr<Network> ImageModel::make_network(Component component, const char* label, std::unique_ptr<Graph> graph) {
  const Weights& weights = parts_.weights(component);
  check_weights(weights_of(*graph), weights);
  auto read = [this, component, &weights](const std::string& name) {
    Tensor tensor = weights.load(name);
    return loras_.changes(component, name) ? loras_.apply(component, name, tensor, session_.engine().pool()) : tensor;
  };
  auto done = [&weights](const std::string& name) { weights.drop(name); };
  return std::make_unique<Network>(session_, label, std::move(graph), read, done);
}

void ImageModel::build_text_encoders(int clip_skip) {
  clip_skip_ = clip_skip;
  encoders_.clear();
  for (Component component : family().text_encoders) {
    auto encoder = std::make_unique<TextEncoder>();
    encoder->component = component;
    const Weights& weights = parts_.weights(component);
    auto graph = std::make_unique<Graph>();
    if (component == Component::T5) {
      encoder->is_t5 = true;
      encoder->tokenizer = t5_tokenizer_.get();
      encoder->rules = t5_rules();
      encoder->t5 = detect_t5(weights);
      encoder->width = encoder->t5.width;
      build_t5(*graph, encoder->t5, kBatch, kText, build_options(weights));
    } else {
      bool is_g = component == Component::ClipG, xl = is_sdxl(family());
      ClipConfig config = detect_clip(weights, is_g ? ClipKind::g : ClipKind::l);
      encoder->tokenizer = clip_tokenizer_.get();
      encoder->rules = is_g ? clip_g_rules() : clip_l_rules(*clip_tokenizer_);
      encoder->width = config.width;
      encoder->has_hidden = !is_flux(family());
      encoder->has_pooled = !(xl && !is_g);
      std::vector<ClipOutput> outputs;
      int64_t layer = clip_skip ? -clip_skip : xl ? -2 : -1;
      if (encoder->has_hidden) outputs.push_back({ClipOutput::hidden, "hidden", layer, !xl});
      if (encoder->has_pooled) outputs.push_back({is_g ? ClipOutput::projected : ClipOutput::pooled, "pooled"});
      build_clip(*graph, config, kBatch, outputs, build_options(weights));
    }
    if (encoder->tokenizer->largest_id() >=
        weights.shape(component == Component::T5 ? "shared.weight" : "text_model.embeddings.token_embedding.weight")[0])
      fail(Code::InvalidArgument,
           "the vocabulary has ids up to {}, which the {} encoder of {} does not have; give the one that belongs to it",
           encoder->tokenizer->largest_id(), name(component), weights.path());
    encoder->network = make_network(component,
                                    component == Component::T5      ? "T5"
                                    : component == Component::ClipG ? "CLIP-G"
                                                                    : "CLIP-L",
                                    std::move(graph));
    encoders_.push_back(std::move(encoder));
  }
}

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
  denoiser_ = make_network(Component::Denoiser, "the denoiser", std::move(graph));
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
  auto update = [&](Component component, Network& network) {
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

EmbeddingLookup ImageModel::embeddings_of(const TextEncoder& encoder) const {
  std::filesystem::path folder = files_.embeddings;
  if (folder.empty() && !files_.comfyui.empty()) folder = files_.comfyui / "models" / "embeddings";
  if (folder.empty() || encoder.is_t5) return {};
  return [folder, &encoder](const std::string& wanted) -> std::optional<Tensor> {
    for (const char* ending : {"", ".safetensors"}) {
      std::filesystem::path path = folder / (wanted + ending);
      if (path.extension() != ".safetensors" || !std::filesystem::is_regular_file(path)) continue;
      Checkpoint file = Checkpoint::open(path);
      // SD1 files have one tensor; SDXL files name the encoder.
      const char* key = encoder.component == Component::ClipG ? "clip_g" : "clip_l";
      std::string tensor_name = file.has(key)            ? key
                                : file.has("emb_params") ? "emb_params"
                                : file.names().empty()   ? ""
                                                         : file.names()[0];
      if (!tensor_name.empty()) return file.tensor(tensor_name).to(DType::f32);
    }
    return {};
  };
}

EncodedPrompt ImageModel::encode(const std::string& prompt, int clip_skip) {
  if (clip_skip != clip_skip_) build_text_encoders(clip_skip);
  EncodedPrompt encoded;
  Tensor joined;
  for (auto& encoder : encoders_) {
    TokenizedPrompt tokens = tokenize_prompt(prompt, *encoder->tokenizer, encoder->rules, embeddings_of(*encoder));
    for (const std::string& missing : tokens.not_found)
      if (std::find(encoded.missing_embeddings.begin(), encoded.missing_embeddings.end(), missing) ==
          encoded.missing_embeddings.end())
        encoded.missing_embeddings.push_back(missing);
    // The empty prompt goes into the same batch: weights move tokens away from it or towards it.
    std::vector<std::vector<Token>> batch = tokens.chunks;
    bool weighted = has_weights(tokens.chunks);
    if (weighted) batch.push_back(empty_chunk(*encoder->tokenizer, encoder->rules.pad_id, int64_t(batch[0].size())));
    EncoderInputs in = encoder_inputs(batch, tokens.vectors, encoder->width, encoder->tokenizer->end_id());
    std::map<std::string, Tensor> inputs{{"token_ids", in.token_ids}, {"vectors", in.vectors}, {"vector_mask", in.vector_mask}};
    if (encoder->is_t5)
      inputs["buckets"] = position_buckets(encoder->t5, in.token_ids.dim(1));
    else
      inputs["end_rows"] = in.end_rows;
    std::vector<Tensor> out = encoder->network->run(inputs);
    auto chunks = int64_t(tokens.chunks.size());
    if (encoder->has_pooled) encoded.pooled = out.back().rows(0, 1).clone();
    if (!encoder->has_hidden) continue;
    Tensor empty = weighted ? out[0].rows(chunks, chunks + 1) : Tensor();
    Tensor context = apply_token_weights(out[0].rows(0, chunks), empty, tokens.chunks);
    joined = joined.empty() ? context : join_features(joined, context);
  }
  encoded.context = joined;
  return encoded;
}

/// All conditionings of one step as one batch.
class ImageModel::BatchedDenoiser : public Denoiser {
 public:
  /// Of a picture of `height` x `width` pixels.
  BatchedDenoiser(ImageModel& model, const SamplingJob& job, std::vector<const EncodedPrompt*> prompts, int64_t height,
                  int64_t width)
      : model_(model), job_(job), prompts_(std::move(prompts)) {
    SizeConditioning sizes = job.sizes.value_or(SizeConditioning{height, width, 0, 0, height, width});
    for (const EncodedPrompt* prompt : prompts_)
      vectors_.push_back(is_sdxl(model.family()) ? sdxl_vector(prompt->pooled, sizes) : prompt->pooled);
  }

  std::vector<Tensor> eval(const Tensor& input, float timestep, std::span<const int> conditionings) override {
    int64_t batch = input.dim(0), total = batch * int64_t(conditionings.size());
    int64_t tokens = 1;
    for (int c : conditionings) tokens = std::lcm(tokens, prompts_[size_t(c)]->context.dim(1));
    // Where lengths differ so much that repeating costs more than it saves, each goes by itself; the reference draws the line
    // here.
    constexpr int64_t kMostRepeats = 4;
    for (int c : conditionings)
      if (tokens / prompts_[size_t(c)]->context.dim(1) > kMostRepeats) return eval_apart(input, timestep, conditionings);
    std::vector<Tensor> inputs, contexts, vectors;
    for (int c : conditionings) {
      inputs.push_back(input);
      contexts.push_back(repeat(repeat_tokens(prompts_[size_t(c)]->context, tokens), batch));
      if (!vectors_[size_t(c)].empty()) vectors.push_back(repeat(vectors_[size_t(c)], batch));
    }
    std::map<std::string, Tensor> in{{"x", stack(inputs)}, {"context", stack(contexts)}};
    bool flux = is_flux(model_.family());
    Tensor times(DType::f32, {total});
    std::fill(times.f32().begin(), times.f32().end(), timestep);
    in[flux ? "timestep" : "timesteps"] = times;
    if (flux || is_sdxl(model_.family())) in["y"] = stack(vectors);
    if (model_.family().defaults.guidance > 0) {
      Tensor guidance(DType::f32, {total});
      std::fill(guidance.f32().begin(), guidance.f32().end(), float(job_.guidance));
      in["guidance"] = guidance;
    }
    Tensor out = model_.denoiser_->run(in).at(0);
    std::vector<Tensor> parts;
    for (size_t i = 0; i < conditionings.size(); ++i) parts.push_back(out.rows(int64_t(i) * batch, int64_t(i + 1) * batch));
    return parts;
  }

 private:
  std::vector<Tensor> eval_apart(const Tensor& input, float timestep, std::span<const int> conditionings) {
    std::vector<Tensor> parts;
    for (const int& c : conditionings) parts.push_back(eval(input, timestep, {&c, 1}).at(0));
    return parts;
  }

  ImageModel& model_;
  const SamplingJob& job_;
  std::vector<const EncodedPrompt*> prompts_;
  std::vector<Tensor> vectors_;
};

Tensor ImageModel::sample(const SamplingJob& job) {
  const SamplerDef& sampler = find_sampler(job.sampler);
  const SchedulerDef& scheduler = find_scheduler(job.scheduler);
  std::vector<const EncodedPrompt*> prompts;
  SampleRequest request{.model = sampling_, .sampler = sampler};
  auto add = [&](const std::vector<WeightedPrompt>& list, std::vector<Conditioning>& to) {
    for (const WeightedPrompt& p : list) {
      to.push_back({int(prompts.size()), p.strength});
      prompts.push_back(&p.prompt);
    }
  };
  add(job.positive, request.guidance.positive);
  add(job.negative, request.guidance.negative);
  request.guidance.cfg = float(job.cfg);
  request.sigmas = ksampler_sigmas(sampling_, sampler, scheduler, job.steps, job.denoise);
  // An empty latent has nothing to shift.
  const LatentFormat& format = family().latent;
  request.latent = job.latent.clone();
  auto values = request.latent.f32();
  if (std::any_of(values.begin(), values.end(), [](float v) { return v != 0; }))
    for (float& v : values) v = (v - float(format.shift)) * float(format.scale);
  request.noise = job.noise ? *job.noise : prepare_noise(job.latent.shape(), job.seed);
  request.mask = job.mask;
  request.seed = job.seed;
  request.progress = job.progress;
  BatchedDenoiser denoiser(*this, job, prompts, job.latent.dim(2) * scale(), job.latent.dim(3) * scale());
  Tensor out = sinter::sample(request, denoiser).clone();
  for (float& v : out.f32()) v = v / float(format.scale) + float(format.shift);
  return out;
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

Tensor ImageModel::decode(const Tensor& latent, const std::optional<DecodeTiles>& tiles) {
  auto whole = [&](const Tensor& z) { return vae_decoder_->run({{"z", z}}).at(0); };
  Tensor out;
  if (tiles) {
    out = decode_in_tiles(latent, *tiles, scale(), whole);
  } else {
    out = whole(latent);
  }
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
void ImageModel::load_denoiser(const std::function<void(double)>& progress) { denoiser_->load_weights(progress); }

Network* ImageModel::network(Component component) {
  if (component == Component::Denoiser) return denoiser_.get();
  if (component == Component::Vae) return vae_decoder_.get();
  for (auto& encoder : encoders_)
    if (encoder->component == component) return encoder->network.get();
  return nullptr;
}

}  // namespace sinter
