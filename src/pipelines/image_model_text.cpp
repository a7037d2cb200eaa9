#include <algorithm>

#include "models/clip.h"
#include "pipelines/image_model_parts.h"

namespace sinter {
using namespace image_model;

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

int64_t ImageModel::text_tokens(const std::string& prompt) const {
  int64_t most = 0;
  for (const auto& encoder : encoders_) {
    if (!encoder->has_hidden) continue;
    auto chunks = tokenize_prompt(prompt, *encoder->tokenizer, encoder->rules, embeddings_of(*encoder)).chunks;
    most = std::max(most, int64_t(chunks.size() * chunks[0].size()));
  }
  return most;
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

}  // namespace sinter
