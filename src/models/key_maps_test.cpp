#include "models/key_maps.h"

#include <doctest/doctest.h>

#include "models/unet.h"
#include "models/vae_image.h"
#include "parameter_table.h"
#include "refusal.h"
#include "sparse_checkpoint.h"
#include "temporary_folder.h"

namespace sinter {
namespace {

using Shapes = std::map<std::string, std::vector<int64_t>>;

std::string dot(int64_t number) { return std::to_string(number) + "."; }

/// Adds weight and bias of one layer.
void add_layer(Shapes& shapes, const std::string& name, std::vector<int64_t> weight) {
  shapes[name + ".bias"] = {weight[0]};
  shapes[name + ".weight"] = std::move(weight);
}
void add_norm(Shapes& shapes, const std::string& name, int64_t channels) { add_layer(shapes, name, {channels}); }

// The tables of diffusers layouts are written out here from what the networks are, without looking at our maps; their digests are
// those of the published files.

void add_residual(Shapes& s, const std::string& at, int64_t in, int64_t out, int64_t time) {
  add_norm(s, at + ".norm1", in), add_norm(s, at + ".norm2", out);
  add_layer(s, at + ".conv1", {out, in, 3, 3}), add_layer(s, at + ".conv2", {out, out, 3, 3});
  if (time > 0) add_layer(s, at + ".time_emb_proj", {out, time});
  if (in != out) add_layer(s, at + ".conv_shortcut", {out, in, 1, 1});
}

void add_transformer(Shapes& s, const std::string& at, const UnetConfig& config, int64_t c, int64_t depth) {
  std::vector<int64_t> projection = config.linear_projections ? std::vector<int64_t>{c, c} : std::vector<int64_t>{c, c, 1, 1};
  add_norm(s, at + ".norm", c);
  add_layer(s, at + ".proj_in", projection), add_layer(s, at + ".proj_out", projection);
  for (int64_t i = 0; i < depth; ++i) {
    std::string block = at + ".transformer_blocks." + dot(i);
    for (const char* norm : {"norm1", "norm2", "norm3"}) add_norm(s, block + norm, c);
    for (std::string attention : {"attn1", "attn2"}) {
      int64_t context = attention == "attn1" ? c : config.context_width;
      s[block + attention + ".to_q.weight"] = {c, c};
      s[block + attention + ".to_k.weight"] = s[block + attention + ".to_v.weight"] = {c, context};
      add_layer(s, block + attention + ".to_out.0", {c, c});
    }
    add_layer(s, block + "ff.net.0.proj", {8 * c, c}), add_layer(s, block + "ff.net.2", {c, 4 * c});
  }
}

Shapes diffusers_unet(const UnetConfig& c) {
  Shapes s;
  int64_t base = c.channels, time = 4 * base, levels = int64_t(c.levels.size());
  add_layer(s, "conv_in", {base, c.in_channels, 3, 3});
  add_layer(s, "time_embedding.linear_1", {time, base}), add_layer(s, "time_embedding.linear_2", {time, time});
  if (c.vector_width > 0) {
    add_layer(s, "add_embedding.linear_1", {time, c.vector_width}), add_layer(s, "add_embedding.linear_2", {time, time});
  }
  std::vector<int64_t> skips = {base};
  int64_t channels = base;
  for (int64_t level = 0; level < levels; ++level) {
    std::string at = "down_blocks." + dot(level);
    const auto& l = c.levels[size_t(level)];
    for (size_t i = 0; i < l.down_depths.size(); ++i) {
      add_residual(s, at + "resnets." + std::to_string(i), channels, l.channels, time);
      if (l.down_depths[i] > 0) add_transformer(s, at + "attentions." + std::to_string(i), c, l.channels, l.down_depths[i]);
      skips.push_back(channels = l.channels);
    }
    if (level + 1 == levels) break;
    add_layer(s, at + "downsamplers.0.conv", {channels, channels, 3, 3});
    skips.push_back(channels);
  }
  add_residual(s, "mid_block.resnets.0", channels, channels, time);
  add_transformer(s, "mid_block.attentions.0", c, channels, c.middle_depth);
  add_residual(s, "mid_block.resnets.1", channels, channels, time);
  for (int64_t up = 0; up < levels; ++up) {
    std::string at = "up_blocks." + dot(up);
    const auto& l = c.levels[size_t(levels - 1 - up)];
    for (size_t i = 0; i < l.up_depths.size(); ++i) {
      add_residual(s, at + "resnets." + std::to_string(i), channels + skips.back(), l.channels, time);
      skips.pop_back();
      channels = l.channels;
      if (l.up_depths[i] > 0) add_transformer(s, at + "attentions." + std::to_string(i), c, channels, l.up_depths[i]);
    }
    if (up + 1 < levels) add_layer(s, at + "upsamplers.0.conv", {channels, channels, 3, 3});
  }
  add_norm(s, "conv_norm_out", base), add_layer(s, "conv_out", {c.out_channels, base, 3, 3});
  return s;
}

void add_vae_middle(Shapes& s, const std::string& side, int64_t c) {
  add_residual(s, side + "mid_block.resnets.0", c, c, 0), add_residual(s, side + "mid_block.resnets.1", c, c, 0);
  std::string attention = side + "mid_block.attentions.0.";
  add_norm(s, attention + "group_norm", c);
  for (const char* name : {"to_q", "to_k", "to_v", "to_out.0"}) add_layer(s, attention + name, {c, c});
}

Shapes diffusers_vae(const VaeConfig& c) {
  Shapes s;
  int64_t top = c.channels.back(), channels = c.channels.front(), levels = int64_t(c.channels.size()), z = c.latent_channels;
  add_layer(s, "encoder.conv_in", {channels, 3, 3, 3}), add_layer(s, "encoder.conv_out", {2 * z, top, 3, 3});
  add_norm(s, "encoder.conv_norm_out", top), add_vae_middle(s, "encoder.", top);
  for (int64_t level = 0; level < levels; ++level) {
    std::string at = "encoder.down_blocks." + dot(level);
    for (int64_t i = 0; i < 2; ++i) {
      add_residual(s, at + "resnets." + std::to_string(i), channels, c.channels[size_t(level)], 0);
      channels = c.channels[size_t(level)];
    }
    if (level + 1 < levels) add_layer(s, at + "downsamplers.0.conv", {channels, channels, 3, 3});
  }
  add_layer(s, "decoder.conv_in", {top, z, 3, 3}), add_layer(s, "decoder.conv_out", {3, c.channels.front(), 3, 3});
  add_norm(s, "decoder.conv_norm_out", c.channels.front()), add_vae_middle(s, "decoder.", top);
  for (int64_t up = 0; up < levels; ++up) {
    std::string at = "decoder.up_blocks." + dot(up);
    for (int64_t i = 0; i < 3; ++i) {
      int64_t out = c.channels[size_t(levels - 1 - up)];
      add_residual(s, at + "resnets." + std::to_string(i), channels, out, 0);
      channels = out;
    }
    if (up + 1 < levels) add_layer(s, at + "upsamplers.0.conv", {channels, channels, 3, 3});
  }
  if (c.quant_conv) add_layer(s, "quant_conv", {2 * z, 2 * z, 1, 1});
  if (c.post_quant_conv) add_layer(s, "post_quant_conv", {z, z, 1, 1});
  return s;
}

Shapes diffusers_flux(bool guidance) {
  Shapes s;
  constexpr int64_t d = 3072;
  add_layer(s, "x_embedder", {d, 64}), add_layer(s, "context_embedder", {d, 4096});
  for (std::string name : {"timestep_embedder", "text_embedder", "guidance_embedder"}) {
    if (name == "guidance_embedder" && !guidance) continue;
    add_layer(s, "time_text_embed." + name + ".linear_1", {d, name == "text_embedder" ? 768 : 256});
    add_layer(s, "time_text_embed." + name + ".linear_2", {d, d});
  }
  for (int64_t i = 0; i < 19; ++i) {
    std::string at = "transformer_blocks." + dot(i);
    for (const char* name : {"norm1.linear", "norm1_context.linear"}) add_layer(s, at + name, {6 * d, d});
    for (const char* name : {"to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_out.0", "to_add_out"})
      add_layer(s, at + "attn." + name, {d, d});
    for (const char* name : {"norm_q", "norm_k", "norm_added_q", "norm_added_k"}) s[at + "attn." + name + ".weight"] = {128};
    for (std::string name : {"ff", "ff_context"})
      add_layer(s, at + name + ".net.0.proj", {4 * d, d}), add_layer(s, at + name + ".net.2", {d, 4 * d});
  }
  for (int64_t i = 0; i < 38; ++i) {
    std::string at = "single_transformer_blocks." + dot(i);
    add_layer(s, at + "norm.linear", {3 * d, d}), add_layer(s, at + "proj_mlp", {4 * d, d});
    add_layer(s, at + "proj_out", {d, 5 * d});
    for (const char* name : {"to_q", "to_k", "to_v"}) add_layer(s, at + "attn." + name, {d, d});
    for (const char* name : {"norm_q", "norm_k"}) s[at + "attn." + name + ".weight"] = {128};
  }
  add_layer(s, "norm_out.linear", {2 * d, d}), add_layer(s, "proj_out", {64, d});
  return s;
}

Weights opened(const TemporaryFolder& folder, const Shapes& shapes, Weights (*map)(const Checkpoint&)) {
  write_sparse_checkpoint(folder / "model.safetensors", shapes);
  return map(Checkpoint::open(folder / "model.safetensors"));
}

ParameterTable table_of(const Weights& weights) {
  ParameterTable table;
  for (const std::string& name : weights.names()) table.shapes[name] = weights.shape(name);
  return table;
}

TEST_CASE("U-Nets in diffusers layout become those of the single files") {
  struct Layouts {
    UnetConfig config;
    const char *diffusers, *canonical;
  };
  for (const Layouts& layouts : {Layouts{sd15_unet_config(), "15576c288e64c99d", "5440e5ee45fc9982"},
                                 Layouts{sdxl_unet_config(), "ac0c7e44db3da062", "19c31fb397315128"}}) {
    Shapes shapes = diffusers_unet(layouts.config);
    REQUIRE(ParameterTable{shapes}.digest() == layouts.diffusers);
    TemporaryFolder folder;
    Weights weights = opened(folder, shapes, denoiser_weights);
    CHECK(table_of(weights).digest() == layouts.canonical);
    CHECK(detect_unet(weights) == layouts.config);
  }
}

TEST_CASE("autoencoders in diffusers layout become those of the single files, 1x1 convolutions aside") {
  struct Layouts {
    VaeConfig config;
    const char* diffusers;
  };
  for (const Layouts& layouts : {Layouts{sd_vae_config(), "ac3b2bf6b3f520a3"}, Layouts{flux_vae_config(), "58c28b377ec3c519"}}) {
    Shapes shapes = diffusers_vae(layouts.config);
    REQUIRE(ParameterTable{shapes}.digest() == layouts.diffusers);
    TemporaryFolder folder;
    Weights weights = opened(folder, shapes, vae_weights);
    CHECK(detect_vae(weights) == layouts.config);
    Graph encoder, decoder;
    build_vae_encoder(encoder, layouts.config, 1, 64, 64);
    build_vae_decoder(decoder, layouts.config, 1, 8, 8);
    auto uses = weights_of(encoder), more = weights_of(decoder);
    uses.insert(uses.end(), more.begin(), more.end());
    CHECK(uses.size() == weights.names().size());
    check_weights(uses, weights);
  }
}

TEST_CASE("older diffusers autoencoders spell their attention otherwise") {
  Shapes older;
  for (auto& [name, shape] : diffusers_vae(sd_vae_config())) {
    std::string old = name;
    for (auto [now, then] :
         {std::pair{".to_q.", ".query."}, {".to_k.", ".key."}, {".to_v.", ".value."}, {".to_out.0.", ".proj_attn."}})
      if (size_t at = old.find(now); at != std::string::npos) old.replace(at, std::string(now).size(), then);
    older[old] = shape;
  }
  TemporaryFolder now_folder, then_folder;
  CHECK(opened(now_folder, diffusers_vae(sd_vae_config()), vae_weights).names() ==
        opened(then_folder, older, vae_weights).names());
}

TEST_CASE("FLUX in diffusers layout becomes that of the single files, several tensors making one weight") {
  for (bool guidance : {true, false}) {
    Shapes shapes = diffusers_flux(guidance);
    REQUIRE(ParameterTable{shapes}.digest() == (guidance ? "0f61dca335b3d46f" : "699b2d640563ec7a"));
    TemporaryFolder folder;
    CHECK(table_of(opened(folder, shapes, denoiser_weights)).digest() == (guidance ? "54f41176ae5ce6f9" : "c07962851a81b0ba"));
  }
}

std::vector<float> values(const Tensor& tensor) {
  Tensor f32 = tensor.to(DType::f32);
  return {f32.f32().begin(), f32.f32().end()};
}

Weights written(const TemporaryFolder& folder, const std::map<std::string, Tensor>& tensors, Weights (*map)(const Checkpoint&)) {
  write_safetensors(folder / "weights.safetensors", tensors);
  return map(Checkpoint::open(folder / "weights.safetensors"));
}

Tensor counting(std::vector<int64_t> shape, float first) {
  int64_t count = element_count(std::span<const int64_t>(shape));
  std::vector<float> numbers;
  for (int64_t i = 0; i < count; ++i) numbers.push_back(first + float(i));
  return Tensor::of(shape, numbers);
}

TEST_CASE("fused weights of FLUX hold their parts in order, and the last modulation shift before scale") {
  TemporaryFolder folder;
  std::string block = "single_transformer_blocks.0.";
  Weights weights = written(folder,
                            {{"x_embedder.weight", counting({1, 1}, 0)},
                             {block + "attn.norm_k.weight", counting({1}, 0)},
                             {block + "attn.to_q.weight", counting({1, 2}, 0)},
                             {block + "attn.to_k.weight", counting({1, 2}, 10)},
                             {block + "attn.to_v.weight", counting({1, 2}, 20)},
                             {block + "proj_mlp.weight", counting({2, 2}, 30)},
                             {"norm_out.linear.weight", counting({4, 1}, 0)}},
                            denoiser_weights);
  CHECK(values(weights.load("single_blocks.0.linear1.weight")) == std::vector<float>{0, 1, 10, 11, 20, 21, 30, 31, 32, 33});
  CHECK(values(weights.load("final_layer.adaLN_modulation.1.weight")) == std::vector<float>{2, 3, 0, 1});
  auto pieces = weights.pieces("single_blocks.0.linear1.weight");
  REQUIRE(pieces.size() == 4);
  CHECK(pieces[3].begin == 3);
  CHECK(pieces[3].end == 5);
}

TEST_CASE("OpenCLIP's fused projections are split, and its text projection is transposed") {
  TemporaryFolder folder;
  std::string block = "transformer.resblocks.0.";
  Weights weights = written(folder,
                            {{block + "ln_1.weight", counting({2}, 0)},
                             {block + "attn.in_proj_weight", counting({6, 2}, 0)},
                             {block + "attn.in_proj_bias", counting({6}, 0)},
                             {block + "attn.out_proj.weight", counting({2, 2}, 0)},
                             {block + "mlp.c_fc.weight", counting({8, 2}, 0)},
                             {"positional_embedding", counting({3, 2}, 0)},
                             {"token_embedding.weight", counting({5, 2}, 0)},
                             {"ln_final.bias", counting({2}, 0)},
                             {"text_projection", counting({2, 3}, 0)}},
                            clip_weights);
  std::string layer = "text_model.encoder.layers.0.";
  CHECK(values(weights.load(layer + "self_attn.k_proj.weight")) == std::vector<float>{4, 5, 6, 7});
  CHECK(values(weights.load(layer + "self_attn.v_proj.bias")) == std::vector<float>{4, 5});
  CHECK(weights.shape("text_projection.weight") == std::vector<int64_t>{3, 2});
  CHECK(values(weights.load("text_projection.weight")) == std::vector<float>{0, 3, 1, 4, 2, 5});
  for (const char* name : {"text_model.embeddings.position_embedding.weight", "text_model.embeddings.token_embedding.weight",
                           "text_model.final_layer_norm.bias", "text_model.encoder.layers.0.layer_norm1.weight",
                           "text_model.encoder.layers.0.self_attn.out_proj.weight", "text_model.encoder.layers.0.mlp.fc1.weight"})
    CHECK_MESSAGE(weights.has(name), name);
}

TEST_CASE("a CLIP of the first files, without its outer name, is the same CLIP") {
  TemporaryFolder folder;
  Weights weights = written(folder,
                            {{"encoder.layers.0.layer_norm1.weight", counting({2}, 0)},
                             {"embeddings.token_embedding.weight", counting({5, 2}, 0)},
                             {"text_projection.weight", counting({2, 2}, 0)}},
                            clip_weights);
  CHECK(weights.has("text_model.encoder.layers.0.layer_norm1.weight"));
  CHECK(weights.has("text_model.embeddings.token_embedding.weight"));
  CHECK(weights.has("text_projection.weight"));
}

TEST_CASE("T5's table of words has two names") {
  TemporaryFolder folder;
  Weights weights = written(folder, {{"encoder.embed_tokens.weight", counting({5, 2}, 0)}}, t5_weights);
  CHECK(weights.shape("shared.weight") == std::vector<int64_t>{5, 2});
}

}  // namespace
}  // namespace sinter
