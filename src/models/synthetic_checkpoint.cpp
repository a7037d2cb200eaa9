#include "models/synthetic_checkpoint.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "base/hash.h"
#include "models/clip.h"
#include "models/flux.h"
#include "models/t5.h"
#include "models/unet.h"
#include "models/vae_image.h"
#include "text/synthetic_vocabulary.h"

namespace sinter {
namespace {

// What the file holds: whatever the networks' builders declare.

using Tensors = std::vector<TensorDeclaration>;

Tensors declared(const std::function<void(Graph&)>& build) {
  Graph graph;
  build(graph);
  Tensors out;
  for (const WeightUse& use : weights_of(graph)) {
    TensorDeclaration& tensor = out.emplace_back(TensorDeclaration{.name = use.name});
    for (const Dim& dim : use.type.shape) tensor.shape.push_back(dim.constant());
  }
  return out;
}

Dim any(const char* name) { return Dim::symbol(name); }

Tensors unet_tensors(const UnetConfig& c) {
  return declared([&](Graph& g) { build_unet(g, c, {any("batch"), any("height"), any("width"), any("tokens")}); });
}

Tensors vae_tensors(const VaeConfig& c) {
  Tensors all = declared([&](Graph& g) {
    Dim scale = c.scale();
    build_vae_encoder(g, c, any("batch"), scale * any("height"), scale * any("width"));
  });
  for (auto& tensor : declared([&](Graph& g) { build_vae_decoder(g, c, any("batch"), any("height"), any("width")); }))
    all.push_back(tensor);
  return all;
}

Tensors clip_tensors(const ClipConfig& c, bool projection) {
  std::vector<ClipOutput> outputs = {{ClipOutput::pooled, "pooled"}};
  if (projection) outputs.push_back({ClipOutput::projected, "projected"});
  return declared([&](Graph& g) { build_clip(g, c, any("batch"), outputs); });
}

Tensors flux_tensors(const FluxConfig& c) {
  return declared([&](Graph& g) { build_flux(g, c, {any("batch"), any("height"), any("width"), any("tokens")}); });
}

/// The layout of OpenCLIP, in which SDXL files hold CLIP-G.
Tensors in_open_clip_layout(const Tensors& tensors) {
  struct Rename {
    const char *from, *to;
  };
  static constexpr Rename kRenames[] = {
      {"text_model.embeddings.position_embedding.weight", "positional_embedding"},
      {"text_model.embeddings.token_embedding", "token_embedding"},
      {"text_model.final_layer_norm", "ln_final"},
      {"text_model.encoder.layers.", "transformer.resblocks."},
      {"text_projection.weight", "text_projection"},
      {"layer_norm", "ln_"},
      {"mlp.fc1", "mlp.c_fc"},
      {"mlp.fc2", "mlp.c_proj"},
      {"self_attn.q_proj.", "attn.in_proj_"},
      {"self_attn.out_proj", "attn.out_proj"},
  };
  Tensors out;
  for (TensorDeclaration tensor : tensors) {
    if (tensor.name.find("self_attn.k_proj") != std::string::npos || tensor.name.find("self_attn.v_proj") != std::string::npos)
      continue;  // below q in one tensor
    if (tensor.name.find("self_attn.q_proj") != std::string::npos) tensor.shape[0] *= 3;
    if (tensor.name == "text_projection.weight") std::swap(tensor.shape[0], tensor.shape[1]);
    for (auto& [from, to] : kRenames)
      if (size_t at = tensor.name.find(from); at != std::string::npos) tensor.name.replace(at, std::string_view(from).size(), to);
    out.push_back(std::move(tensor));
  }
  out.push_back({.name = "logit_scale"});
  return out;
}

void add(SyntheticCheckpoint& checkpoint, const std::string& prefix, const Tensors& tensors) {
  for (const TensorDeclaration& tensor : tensors) checkpoint.tensors.push_back({prefix + tensor.name, DType::f32, tensor.shape});
}

// The tiny sizes are those of the golden data; what no shape tells stands in the metadata.

VaeConfig tiny(VaeConfig c) {
  c.channels = {32, 64, 32, 32};
  return c;
}

ClipConfig tiny_clip(int64_t width, int64_t heads, int64_t layers) {
  ClipConfig c;
  c.width = width, c.heads = heads, c.layers = layers, c.mlp = 4 * width;
  return c;
}

std::string tiny_clip_text(const char* name, const ClipConfig& c) {
  return fmt::format(
      R"("{}": {{"hidden_size": {}, "intermediate_size": {}, "num_attention_heads": {}, "num_hidden_layers": {}}})", name,
      c.width, c.mlp, c.heads, c.layers);
}

void add_sd15(SyntheticCheckpoint& out, bool small) {
  UnetConfig unet = sd15_unet_config();
  ClipConfig clip = clip_l_config();
  if (small) {
    clip = tiny_clip(32, 2, 4);
    unet.channels = 32, unet.context_width = clip.width;
    for (size_t i = 0; i < unet.levels.size(); ++i) unet.levels[i].channels = i == 1 ? 64 : 32;
    out.metadata["tiny_config"] =
        fmt::format(R"({{{}, "unet": {{"num_heads": {}}}}})", tiny_clip_text("clip_l", clip), unet.heads);
  }
  add(out, "model.diffusion_model.", unet_tensors(unet));
  add(out, "first_stage_model.", vae_tensors(small ? tiny(sd_vae_config()) : sd_vae_config()));
  add(out, "cond_stage_model.transformer.", clip_tensors(clip, false));
  out.clip_vocabulary = clip.vocabulary;
}

void add_sdxl(SyntheticCheckpoint& out, bool small) {
  constexpr int64_t kSizeWaves = 6 * 256;  // what `y` has besides the pooled text
  UnetConfig unet = sdxl_unet_config();
  ClipConfig l = clip_l_config(), g = clip_g_config();
  if (small) {
    l = tiny_clip(16, 2, 4), g = tiny_clip(32, 4, 5);
    unet.channels = 32, unet.context_width = l.width + g.width, unet.vector_width = g.width + kSizeWaves;
    unet.levels = {{32, {0, 0}, {0, 0, 0}}, {64, {1, 1}, {1, 1, 1}}, {64, {2, 2}, {2, 2, 2}}};
    unet.middle_depth = 2;
    out.metadata["tiny_config"] = fmt::format(R"({{{}, {}, "unet": {{"num_head_channels": {}}}}})", tiny_clip_text("clip_l", l),
                                              tiny_clip_text("clip_g", g), unet.head_size);
  }
  add(out, "model.diffusion_model.", unet_tensors(unet));
  add(out, "first_stage_model.", vae_tensors(small ? tiny(sd_vae_config()) : sd_vae_config()));
  add(out, "conditioner.embedders.0.transformer.", clip_tensors(l, false));
  add(out, "conditioner.embedders.1.model.", in_open_clip_layout(clip_tensors(g, true)));
  out.clip_vocabulary = l.vocabulary;
}

void add_flux(SyntheticCheckpoint& out, bool small, bool guidance) {
  FluxConfig flux;
  ClipConfig clip = clip_l_config();
  T5Config t5;
  flux.guidance = guidance;
  if (small) {
    clip = tiny_clip(32, 2, 4);
    t5.width = 32, t5.heads = 4, t5.head_size = 16, t5.layers = 3, t5.mlp = 64;
    flux.width = 128, flux.head_size = 64, flux.mlp = 512, flux.double_blocks = 2, flux.single_blocks = 3;
    flux.context_width = t5.width, flux.vector_width = clip.width, flux.axes = {8, 28, 28};
    out.metadata["tiny_config"] = fmt::format("{{{}}}", tiny_clip_text("clip_l", clip));
  }
  add(out, "model.diffusion_model.", flux_tensors(flux));
  add(out, "vae.", vae_tensors(small ? tiny(flux_vae_config()) : flux_vae_config()));
  add(out, "text_encoders.clip_l.transformer.", clip_tensors(clip, false));
  add(out, "text_encoders.t5xxl.transformer.", declared([&](Graph& g) { build_t5(g, t5, any("batch"), any("tokens")); }));
  out.clip_vocabulary = clip.vocabulary;
  out.t5_vocabulary = t5.vocabulary;
}

// Values: mean + deviation * noise.

struct Spread {
  double mean = 0, deviation = 0;
};

Spread spread_of(const TensorDeclaration& tensor) {
  constexpr double kNormNoise = 0.05, kBias = 0.02;
  constexpr double kModulation = 0.3;  // gates of 57 blocks in a row would otherwise drown the picture
  auto named = [&](const char* part) { return tensor.name.find(part) != std::string::npos; };
  if (tensor.shape.empty()) return {std::log(100.0), 0};  // logit_scale
  bool bias = tensor.name.ends_with("bias");
  if (tensor.shape.size() == 1) return bias ? Spread{0, kBias} : Spread{1, kNormNoise};
  if (named("embedding") || named("shared.")) return {0, 1};
  if (named("relative_attention_bias")) return {0, 0.5};
  // OpenCLIP multiplies from the other side.
  bool transposed = tensor.name.ends_with("text_projection");
  int64_t fan_in = transposed ? tensor.shape[0] : element_count(std::span(tensor.shape).subspan(1));
  double deviation = 1 / std::sqrt(double(fan_in));
  if (named("modulation") || named("_mod.lin")) deviation *= kModulation;
  // T5 does not divide scores by the root of the head size; its weights do.
  constexpr double kT5HeadSize = 64;
  if (named("SelfAttention.q.")) deviation /= std::sqrt(kT5HeadSize);
  return {0, deviation};
}

uint64_t mixed(uint64_t x) {  // the finaliser of SplitMix64 (Steele, Lea and Flood 2014)
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

/// Element i depends on key and i alone. The sum of four uniforms is close enough to a bell: no weight is beyond 3.5 deviations,
/// and no logarithm is needed for gigabytes of them.
void fill(float* out, uint64_t key, int64_t begin, int64_t end, Spread spread) {
  constexpr uint64_t kStep = 0x9e3779b97f4a7c15u;
  constexpr float kCentre = 2 * 65535.0f;
  const float scale = float(spread.deviation / (65536.0 * std::sqrt(4.0 / 12.0))), mean = float(spread.mean);
  for (int64_t i = begin; i < end; ++i) {
    uint64_t bits = mixed(key + uint64_t(i) * kStep);
    int32_t sum = int32_t(bits & 0xffff) + int32_t(bits >> 16 & 0xffff) + int32_t(bits >> 32 & 0xffff) + int32_t(bits >> 48);
    out[i - begin] = mean + scale * (float(sum) - kCentre);
  }
}

class Writer {
 public:
  Writer(const SyntheticOptions& options, ThreadPool& pool, const std::function<void(uint64_t)>& progress)
      : options_(options), pool_(pool), progress_(progress), chunk_(size_t(kChunk * byte_size(options.dtype))) {}

  void write(const TensorDeclaration& tensor, const TensorSink& sink) {
    const uint64_t key = Hasher().add(tensor.name).add(options_.seed).digest().low;
    const Spread spread = spread_of(tensor);
    const int64_t count = element_count(tensor.shape), size = byte_size(options_.dtype);
    for (int64_t begin = 0; begin < count; begin += kChunk) {
      int64_t length = std::min(kChunk, count - begin);
      pool_.parallel_for(length, kPiece, [&](int64_t from, int64_t to, int) {
        std::array<float, kPiece> values;
        fill(values.data(), key, begin + from, begin + to, spread);
        convert(values.data(), DType::f32, chunk_.data() + from * size, options_.dtype, to - from);
      });
      sink(chunk_.data(), size_t(length * size));
      written_ += uint64_t(length * size);
      if (progress_) progress_(written_);
    }
  }

 private:
  static constexpr int64_t kPiece = 4096, kChunk = int64_t(1) << 22;

  const SyntheticOptions& options_;
  ThreadPool& pool_;
  const std::function<void(uint64_t)>& progress_;
  std::vector<std::byte> chunk_;
  uint64_t written_ = 0;
};

}  // namespace

int64_t SyntheticCheckpoint::parameters() const {
  return std::accumulate(tensors.begin(), tensors.end(), int64_t(0),
                         [](int64_t sum, auto& tensor) { return sum + element_count(tensor.shape); });
}

uint64_t SyntheticCheckpoint::bytes() const {
  return std::accumulate(tensors.begin(), tensors.end(), uint64_t(0), [](uint64_t sum, auto& tensor) {
    return sum + uint64_t(element_count(tensor.shape) * byte_size(tensor.dtype));
  });
}

SyntheticCheckpoint synthetic_checkpoint(const SyntheticOptions& options) {
  if (options.dtype != DType::f32 && options.dtype != DType::f16 && options.dtype != DType::bf16)
    fail(Code::InvalidArgument, "a synthetic checkpoint is f32, f16 or bf16, not {}", name(options.dtype));
  SyntheticCheckpoint out;
  if (options.family == "sd15")
    add_sd15(out, options.tiny);
  else if (options.family == "sdxl")
    add_sdxl(out, options.tiny);
  else if (options.family == "flux1-dev" || options.family == "flux1-schnell")
    add_flux(out, options.tiny, options.family == "flux1-dev");
  else
    fail(Code::InvalidArgument, "no synthetic checkpoint of the family \"{}\": sd15, sdxl, flux1-dev or flux1-schnell",
         options.family);
  for (TensorDeclaration& tensor : out.tensors) tensor.dtype = options.dtype;
  out.metadata["sinter_synthetic"] = fmt::format("random weights, seed {}", options.seed);
  return out;
}

void write_synthetic_checkpoint(const std::filesystem::path& path, const SyntheticOptions& options, ThreadPool& pool,
                                const std::function<void(uint64_t)>& progress) {
  SyntheticCheckpoint checkpoint = synthetic_checkpoint(options);
  if (checkpoint.clip_vocabulary > 0) write_clip_vocabulary(vocabulary_folder(path) / "clip", checkpoint.clip_vocabulary);
  if (checkpoint.t5_vocabulary > 0) write_t5_vocabulary(vocabulary_folder(path) / "t5", checkpoint.t5_vocabulary);
  Writer writer(options, pool, progress);
  write_safetensors(path, checkpoint.tensors, checkpoint.metadata,
                    [&](const TensorDeclaration& tensor, const TensorSink& sink) { writer.write(tensor, sink); });
}

std::filesystem::path vocabulary_folder(const std::filesystem::path& checkpoint) {
  return std::filesystem::path(checkpoint).replace_extension(".vocab");
}

}  // namespace sinter
