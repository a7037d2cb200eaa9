#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "models/checkpoint_names.h"
#include "models/lora.h"
#include "models/scope.h"
#include "pipelines/conditioning.h"
#include "pipelines/hoisted_network.h"
#include "pipelines/sample.h"
#include "pipelines/tiled_decode.h"
#include "text/vocabulary.h"

namespace sinter {

/// The files that make a model. Only `model` is always needed; the others replace or add components.
struct ModelFiles {
  std::filesystem::path model;
  std::filesystem::path clip_l, clip_g, t5, vae;
  std::filesystem::path clip_vocabulary, t5_vocabulary, comfyui;
  std::filesystem::path embeddings;  ///< folder of textual inversions; empty: ComfyUI's, if that is given
  std::string variant;               ///< of a diffusers folder: "fp16"
};

struct ModelOptions {
  DType compute = DType::f32;
  bool fp8 = false;            ///< with bf16 on a GPU: the denoiser's wide linear layers multiply in f8e4m3
  bool fp8_attention = false;  ///< with bf16 on a GPU that can: the denoiser's normalised self-attention does
  /// The type in which weights are kept; none: as in the file.
  std::optional<DType> weights;
  std::optional<Prediction> prediction;  ///< none: as the checkpoint says
  bool zero_terminal_snr = false;        ///< in any case; else as the checkpoint says
};

/// What a prompt becomes: [1, tokens, width] for the denoiser's attention, and [1, width] for its vector (no data: none).
struct EncodedPrompt {
  Tensor context, pooled;
  std::vector<std::string> missing_embeddings;
};
struct WeightedPrompt {
  EncodedPrompt prompt;
  float strength = 1;
};

/// One sampling run over a batch of latents.
struct SamplingJob {
  std::vector<WeightedPrompt> positive, negative;
  std::string sampler = "euler", scheduler = "normal";
  int steps = 20;
  double cfg = 7, denoise = 1, guidance = 3.5;
  uint64_t seed = 0;
  Tensor latent;  ///< in the autoencoder's units; zeros: start from noise alone
  Tensor mask;    ///< see SampleRequest
  std::optional<Tensor> noise;
  std::optional<SizeConditioning> sizes;  ///< SDXL; none: the picture's size
  std::function<bool(const SampleProgress&)> progress;
};

/// What decides how much memory a run needs, and what it compiles.
struct RunShape {
  int64_t batch = 1, width = 0, height = 0;  ///< pixels
  bool guided = true;                        ///< the denoiser sees two conditionings at once
  bool from_image = false;                   ///< the encoder runs first
  int timesteps = 20;                        ///< at which the denoiser is asked
  bool repeated = false;                     ///< more pictures are to come: the denoiser stays while one is decoded
  std::vector<int64_t> text_tokens;          ///< that the denoiser sees of each prompt; empty: of the shortest there are
};

/// How a run fits into memory.
struct MemoryPlan {
  /// The most that it takes at once: weights, buffers, what is read of files, pictures; not the program itself. It holds where
  /// text encoders, encoder and denoiser are unloaded as soon as their work is done, the denoiser after the last picture is
  /// sampled.
  int64_t peak_bytes = 0;
  std::optional<DecodeTiles> tiles;  ///< none: decoded as a whole
  int streamed = 0, blocks = 0;      ///< blocks of the denoiser whose weights are streamed, of all
};

/// A model of the sd15, sdxl or flux1 family, from prompt to picture. Networks are compiled together and loaded when they are
/// first needed.
class ImageModel {
 public:
  ImageModel(Session& session, const ModelFiles& files, const ModelOptions& options = {});
  ~ImageModel();

  const Family& family() const { return *parts_.family; }
  const ModelSampling& sampling() const { return sampling_; }
  /// Why no attention of the denoiser would multiply in f8e4m3 with ModelOptions::fp8_attention; empty where one would.
  std::string why_no_fp8_attention() const;
  /// Pixels along one side of a latent's element.
  int64_t scale() const { return scale_; }
  /// Reads LoRA files and changes weights by them from now on; compiles nothing. Gives the keys that nobody knows.
  struct LoraRequest {
    std::filesystem::path file;
    double model_strength = 1, text_strength = 1;
  };
  std::vector<std::string> set_loras(const std::vector<LoraRequest>& requests);

  /// `clip_skip` 0: the family's own; N: the output of the N-th layer from the end.
  EncodedPrompt encode(const std::string& prompt, int clip_skip = 0);
  /// How many tokens of a prompt the denoiser will see. Encodes nothing.
  int64_t text_tokens(const std::string& prompt) const;
  /// The denoised latents, in the autoencoder's units.
  Tensor sample(const SamplingJob& job);
  /// pixels f32[batch, height, width, 3] in 0..1 -> latents; sizes are cropped to multiples of scale() about the middle.
  Tensor encode_image(const Tensor& pixels);
  /// Latents -> pixels f32[batch, height, width, 3] in 0..1; in tiles if `tiles` says so. Where memory turns out to be too short,
  /// the other networks' weights are given back, and smaller tiles are tried; the engine's notes tell.
  Tensor decode(const Tensor& latent, const std::optional<DecodeTiles>& tiles = {});

  std::vector<int64_t> latent_shape(int64_t batch, int64_t width, int64_t height) const;

  /// What will be compiled for such a run.
  CompileReport foresee(const RunShape& run);
  /// Compiles everything for it.
  void compile(const RunShape& run);
  /// Decides how a run fits into `budget` bytes: as it is where it does; else decoded in tiles, as large as do; else with weights
  /// streamed from the host's memory as well, as few as do. Where nothing does, the plan is the least that was found and its peak
  /// is above the budget. `tiles`: those and no others. Compiles what is missing, and nothing is loaded otherwise from now on.
  /// No plan on the reference backend: peak 0.
  MemoryPlan plan_memory(const RunShape& run, int64_t budget, const std::optional<DecodeTiles>& tiles = {});
  /// Why streamed weights come slower than the bus could bring them; empty where they do not. Once the denoiser is loaded.
  std::string why_streams_slowly() const { return denoiser_->step().why_streams_slowly(); }

  /// Give the memory of these weights back; they are read again when needed.
  void unload_text_encoders();
  void unload_denoiser();
  void unload_encoder();
  /// Computes what the steps of such a run share (the latent does not matter), then loads the denoiser. sample() does it where
  /// it has not been done.
  void prepare(const SamplingJob& job);

 private:
  struct TextEncoder;
  class BatchedDenoiser;

  BuildOptions build_options(const Weights& weights) const;
  DType merged_type(DType type) const;
  std::unique_ptr<Network> make_network(Component component, const std::string& label, std::unique_ptr<Graph> graph);
  void build_text_encoders(int clip_skip);
  void build_denoiser();
  void refuse_other_inputs(int64_t channels) const;
  void build_vae();
  EmbeddingLookup embeddings_of(const TextEncoder& encoder) const;
  SampleRequest request_for(const SamplingJob& job, std::vector<const EncodedPrompt*>& prompts) const;
  struct Stage;
  std::vector<Stage> stages(const RunShape& run);
  int64_t loading_peak_bytes(const Stage& stage);
  Tensor decode_once(const Tensor& latent, const std::optional<DecodeTiles>& tiles);
  Tensor decode_with_less(const Tensor& latent, const std::optional<DecodeTiles>& tiles, const Error& why);
  int64_t decoding_bytes(const RunShape& run, const std::optional<DecodeTiles>& tiles, int64_t buffers);
  int64_t table_bytes(const Stage& stage, const RunShape& run) const;
  struct Walk;
  Walk walk(const RunShape& run, const std::optional<DecodeTiles>& tiles, std::optional<int64_t> budget);
  int64_t decode_buffer_bytes(const RunShape& run, const std::optional<DecodeTiles>& tiles);

  Session& session_;
  ModelFiles files_;
  ModelOptions options_;
  ModelParts parts_;
  ModelSampling sampling_;
  LoraStack loras_;
  std::vector<std::unique_ptr<TextEncoder>> encoders_;
  int clip_skip_ = 0;
  int64_t scale_ = 0;  // of the autoencoder
  std::unique_ptr<HoistedNetwork> denoiser_;
  std::unique_ptr<Network> vae_encoder_, vae_decoder_;
  std::unique_ptr<ClipTokenizer> clip_tokenizer_;
  std::unique_ptr<T5Tokenizer> t5_tokenizer_;
};

}  // namespace sinter
