#include "models/key_maps.h"

#include <charconv>
#include <initializer_list>
#include <span>

namespace sinter {
namespace {

struct Rename {
  std::string_view from, to;
};
using Renames = std::span<const Rename>;

/// `name` with the first matching beginning replaced; empty where none matches. A beginning ends where a part of the name ends.
std::string with_beginning_replaced(std::string_view name, Renames renames) {
  for (auto& [from, to] : renames)
    if (name.starts_with(from) && (name.size() == from.size() || from.ends_with('.') || name[from.size()] == '.'))
      return std::string(to) + std::string(name.substr(from.size()));
  return "";
}

std::string or_same(std::string renamed, std::string_view name) { return renamed.empty() ? std::string(name) : renamed; }

/// Takes "12." off the front of `name`; -1 where no number stands there.
int64_t take_number(std::string_view& name) {
  int64_t number = -1;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end == name.data() + name.size() || *end != '.' || number < 0 || number > 100000) return -1;
  name.remove_prefix(size_t(end - name.data()) + 1);
  return number;
}

bool take(std::string_view& name, std::string_view beginning) {
  if (!name.starts_with(beginning)) return false;
  name.remove_prefix(beginning.size());
  return true;
}

int64_t count_numbers(const Checkpoint& c, const std::string& before, const std::string& after) {
  int64_t count = 0;
  while (c.has(before + std::to_string(count) + after)) ++count;
  return count;
}

std::string dotted(std::initializer_list<int64_t> numbers) {
  std::string text;
  for (int64_t number : numbers) text += std::to_string(number) + ".";
  return text;
}

// U-Net.

constexpr Rename kUnetOutside[] = {
    {"conv_in", "input_blocks.0.0"},
    {"time_embedding.linear_1", "time_embed.0"},
    {"time_embedding.linear_2", "time_embed.2"},
    {"add_embedding.linear_1", "label_emb.0.0"},
    {"add_embedding.linear_2", "label_emb.0.2"},
    {"class_embedding.linear_1", "label_emb.0.0"},
    {"class_embedding.linear_2", "label_emb.0.2"},
    {"conv_norm_out", "out.0"},
    {"conv_out", "out.2"},
    {"mid_block.attentions.0", "middle_block.1"},
};
constexpr Rename kUnetResidual[] = {
    {"norm1", "in_layers.0"},  {"conv1", "in_layers.2"},  {"time_emb_proj", "emb_layers.1"},
    {"norm2", "out_layers.0"}, {"conv2", "out_layers.3"}, {"conv_shortcut", "skip_connection"},
};

/// One name; empty where it is none of a U-Net. Levels have `blocks` residual blocks on the way down, one more on the way up;
/// both count in the single-file layout too, together with the resampling that follows them.
std::string unet_name(const Checkpoint& c, std::string_view name, int64_t blocks) {
  std::string_view rest = name;
  if (take(rest, "mid_block.resnets.")) {
    int64_t i = take_number(rest);
    std::string inner = with_beginning_replaced(rest, kUnetResidual);
    return i < 0 || inner.empty() ? "" : "middle_block." + dotted({2 * i}) + inner;
  }
  bool down = name.starts_with("down_blocks."), up = name.starts_with("up_blocks.");
  if (!down && !up) return with_beginning_replaced(name, kUnetOutside);
  rest.remove_prefix(down ? 12 : 10);
  int64_t level = take_number(rest);
  if (level < 0) return "";
  std::string side = down ? "input_blocks." : "output_blocks.";
  int64_t first = level * (blocks + 1) + (down ? 1 : 0);
  if (take(rest, "resnets.")) {
    int64_t i = take_number(rest);
    std::string inner = with_beginning_replaced(rest, kUnetResidual);
    return i < 0 || inner.empty() ? "" : side + dotted({first + i, 0}) + inner;
  }
  if (take(rest, "attentions.")) {
    int64_t i = take_number(rest);
    return i < 0 ? "" : side + dotted({first + i, 1}) + std::string(rest);
  }
  if (down && take(rest, "downsamplers.0.conv.")) return side + dotted({first + blocks, 0}) + "op." + std::string(rest);
  if (up && take(rest, "upsamplers.0.conv.")) {
    bool attends = c.has("up_blocks." + std::to_string(level) + ".attentions.0.norm.weight");
    return side + dotted({first + blocks, attends ? 2 : 1}) + "conv." + std::string(rest);
  }
  return "";
}

Weights unet_from_diffusers(const Checkpoint& c) {
  Weights source(c);
  int64_t blocks = count_numbers(c, "down_blocks.0.resnets.", ".norm1.weight");
  for (const std::string& name : c.names())
    if (std::string canonical = unet_name(c, name, blocks); !canonical.empty()) source.add(canonical, {{name}});
  return source;
}

// Autoencoder.

constexpr Rename kVaeOutside[] = {
    {"mid_block.resnets.0", "mid.block_1"},
    {"mid_block.resnets.1", "mid.block_2"},
    {"mid_block.attentions.0", "mid.attn_1"},
    {"conv_norm_out", "norm_out"},
    {"conv_in", "conv_in"},
    {"conv_out", "conv_out"},
};
constexpr Rename kVaeAttention[] = {
    {"group_norm", "norm"},    {"to_q", "q"},  {"to_k", "k"}, {"to_v", "v"},
    {"to_out.0", "proj_out"},  {"query", "q"}, {"key", "k"},  {"value", "v"},
    {"proj_attn", "proj_out"},
};
constexpr Rename kVaeResidual[] = {{"conv_shortcut", "nin_shortcut"}};

constexpr Rename kVaeResampling[] = {{"downsamplers.0", "downsample"}, {"upsamplers.0", "upsample"}};

/// Within encoder or decoder. Levels of the decoder are counted from the coarse end in one layout, from the fine end in the
/// other.
std::string vae_name(std::string_view name, int64_t levels) {
  constexpr std::string_view kAttention = "mid.attn_1.", kMiddle = "mid.block_";
  if (std::string outside = with_beginning_replaced(name, kVaeOutside); !outside.empty()) {
    std::string_view inner = outside;
    if (take(inner, kAttention)) return std::string(kAttention) + with_beginning_replaced(inner, kVaeAttention);
    if (!take(inner, kMiddle)) return outside;
    inner.remove_prefix(2);
    return outside.substr(0, kMiddle.size() + 2) + or_same(with_beginning_replaced(inner, kVaeResidual), inner);
  }
  std::string_view rest = name;
  bool down = take(rest, "down_blocks.");
  if (!down && !take(rest, "up_blocks.")) return "";
  int64_t level = take_number(rest);
  if (level < 0) return "";
  std::string at = down ? "down." + dotted({level}) : "up." + dotted({levels - 1 - level});
  if (take(rest, "resnets.")) {
    int64_t i = take_number(rest);
    return i < 0 ? "" : at + "block." + dotted({i}) + or_same(with_beginning_replaced(rest, kVaeResidual), rest);
  }
  std::string resampler = with_beginning_replaced(rest, kVaeResampling);
  return resampler.empty() ? "" : at + resampler;
}

Weights vae_from_diffusers(const Checkpoint& c) {
  Weights source(c);
  int64_t levels = count_numbers(c, "decoder.up_blocks.", ".resnets.0.norm1.weight");
  for (const std::string& name : c.names()) {
    std::string_view rest = name;
    std::string side = take(rest, "encoder.") ? "encoder." : take(rest, "decoder.") ? "decoder." : "";
    if (side.empty())
      source.add(name, {{name}});
    else if (std::string canonical = vae_name(rest, levels); !canonical.empty())
      source.add(side + canonical, {{name}});
  }
  return source;
}

// FLUX. Some weights of one layout are several tensors of the other, one below the other.

struct Fused {
  std::string_view canonical;
  std::vector<std::string_view> tensors;
};

const std::vector<Fused>& flux_outside() {
  static const std::vector<Fused> table = {
      {"img_in", {"x_embedder"}},
      {"txt_in", {"context_embedder"}},
      {"time_in.in_layer", {"time_text_embed.timestep_embedder.linear_1"}},
      {"time_in.out_layer", {"time_text_embed.timestep_embedder.linear_2"}},
      {"vector_in.in_layer", {"time_text_embed.text_embedder.linear_1"}},
      {"vector_in.out_layer", {"time_text_embed.text_embedder.linear_2"}},
      {"guidance_in.in_layer", {"time_text_embed.guidance_embedder.linear_1"}},
      {"guidance_in.out_layer", {"time_text_embed.guidance_embedder.linear_2"}},
      {"final_layer.linear", {"proj_out"}},
  };
  return table;
}

const std::vector<Fused>& flux_double() {
  static const std::vector<Fused> table = {
      {"img_mod.lin", {"norm1.linear"}},
      {"txt_mod.lin", {"norm1_context.linear"}},
      {"img_attn.qkv", {"attn.to_q", "attn.to_k", "attn.to_v"}},
      {"txt_attn.qkv", {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"}},
      {"img_attn.norm.query_norm", {"attn.norm_q"}},
      {"img_attn.norm.key_norm", {"attn.norm_k"}},
      {"txt_attn.norm.query_norm", {"attn.norm_added_q"}},
      {"txt_attn.norm.key_norm", {"attn.norm_added_k"}},
      {"img_attn.proj", {"attn.to_out.0"}},
      {"txt_attn.proj", {"attn.to_add_out"}},
      {"img_mlp.0", {"ff.net.0.proj"}},
      {"img_mlp.2", {"ff.net.2"}},
      {"txt_mlp.0", {"ff_context.net.0.proj"}},
      {"txt_mlp.2", {"ff_context.net.2"}},
  };
  return table;
}

const std::vector<Fused>& flux_single() {
  static const std::vector<Fused> table = {
      {"modulation.lin", {"norm.linear"}}, {"linear1", {"attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"}},
      {"linear2", {"proj_out"}},           {"norm.query_norm", {"attn.norm_q"}},
      {"norm.key_norm", {"attn.norm_k"}},
  };
  return table;
}

void add_fused(Weights& source, const Checkpoint& c, const std::vector<Fused>& table, const std::string& to,
               const std::string& from) {
  for (const Fused& row : table)
    for (std::string suffix : {".weight", ".bias"}) {
      std::vector<WeightPart> parts;
      for (std::string_view tensor : row.tensors)
        if (std::string name = from + std::string(tensor) + suffix; c.has(name)) parts.push_back({name});
      // An incomplete set is left out, so that it is reported as missing and not as having another shape.
      if (parts.size() != row.tensors.size()) continue;
      bool is_norm = row.canonical.ends_with("_norm");
      source.add(to + std::string(row.canonical) + (is_norm ? ".scale" : suffix), parts);
    }
}

Weights flux_from_diffusers(const Checkpoint& c) {
  Weights source(c);
  add_fused(source, c, flux_outside(), "", "");
  const std::string double_block = "transformer_blocks.", single_block = "single_transformer_blocks.";
  for (int64_t i = 0; i < count_numbers(c, double_block, ".attn.to_q.weight"); ++i)
    add_fused(source, c, flux_double(), "double_blocks." + dotted({i}), double_block + dotted({i}));
  for (int64_t i = 0; i < count_numbers(c, single_block, ".attn.to_q.weight"); ++i)
    add_fused(source, c, flux_single(), "single_blocks." + dotted({i}), single_block + dotted({i}));
  // Here scale comes before shift; the canonical order is shift, scale.
  for (std::string suffix : {".weight", ".bias"}) {
    std::string name = "norm_out.linear" + suffix;
    auto info = c.find(name);
    if (!info || info->shape.empty()) continue;
    int64_t half = info->shape[0] / 2;
    source.add("final_layer.adaLN_modulation.1" + suffix, {{name, half, half}, {name, 0, half}});
  }
  return source;
}

/// Later writers spell the scale of the attention's norms `weight`.
Weights flux_plain(const Checkpoint& c) {
  Weights source(c);
  for (const std::string& name : c.names()) {
    bool respelled = name.ends_with("_norm.weight");
    source.add(respelled ? name.substr(0, name.size() - 6) + "scale" : name, {{name}});
  }
  return source;
}

// Text encoders.

constexpr Rename kOpenClipOutside[] = {
    {"positional_embedding", "text_model.embeddings.position_embedding.weight"},
    {"token_embedding", "text_model.embeddings.token_embedding"},
    {"ln_final", "text_model.final_layer_norm"},
};
constexpr Rename kOpenClipLayer[] = {
    {"ln_1", "layer_norm1"},
    {"ln_2", "layer_norm2"},
    {"mlp.c_fc", "mlp.fc1"},
    {"mlp.c_proj", "mlp.fc2"},
    {"attn.out_proj", "self_attn.out_proj"},
};

/// The three projections of attention lie one below the other in one tensor.
void add_split_projection(Weights& source, const Checkpoint& c, const std::string& name, const std::string& layer,
                          std::string_view suffix) {
  auto info = c.find(name);
  if (!info || info->shape.empty()) return;
  int64_t rows = info->shape[0] / 3, begin = 0;
  for (const char* projection : {"q_proj.", "k_proj.", "v_proj."}) {
    source.add(layer + "self_attn." + projection + std::string(suffix), {{name, begin, rows}});
    begin += rows;
  }
}

Weights clip_from_open_clip(const Checkpoint& c) {
  Weights source(c);
  for (const std::string& name : c.names()) {
    std::string_view rest = name;
    if (take(rest, "transformer.resblocks.")) {
      int64_t i = take_number(rest);
      std::string layer = "text_model.encoder.layers." + dotted({i});
      if (i < 0) continue;
      if (take(rest, "attn.in_proj_"))
        add_split_projection(source, c, name, layer, rest);
      else if (std::string inner = with_beginning_replaced(rest, kOpenClipLayer); !inner.empty())
        source.add(layer + inner, {{name}});
    } else if (name == "text_projection") {
      // OpenCLIP computes x.P, linear layers x.W^T.
      source.add("text_projection.weight", {{.tensor = name, .transpose = true}});
    } else {
      source.add(or_same(with_beginning_replaced(name, kOpenClipOutside), name), {{name}});
    }
  }
  return source;
}

}  // namespace

Weights denoiser_weights(const Checkpoint& c) {
  if (c.has("conv_in.weight") && c.has("down_blocks.0.resnets.0.norm1.weight")) return unet_from_diffusers(c);
  if (c.has("x_embedder.weight") && c.has("single_transformer_blocks.0.attn.norm_k.weight")) return flux_from_diffusers(c);
  if (c.has("double_blocks.0.img_mod.lin.weight")) return flux_plain(c);
  return Weights::plain(c);
}

Weights vae_weights(const Checkpoint& c) {
  bool diffusers = c.has("decoder.up_blocks.0.resnets.0.norm1.weight") || c.has("encoder.down_blocks.0.resnets.0.norm1.weight");
  return diffusers ? vae_from_diffusers(c) : Weights::plain(c);
}

Weights clip_weights(const Checkpoint& c) {
  if (c.has("transformer.resblocks.0.ln_1.weight")) return clip_from_open_clip(c);
  if (!c.has("encoder.layers.0.layer_norm1.weight")) return Weights::plain(c);
  Weights source(c);  // very old files
  for (const std::string& name : c.names())
    source.add(name.starts_with("text_projection") ? name : "text_model." + name, {{name}});
  return source;
}

Weights t5_weights(const Checkpoint& c) {
  Weights source = Weights::plain(c);
  if (c.has("encoder.embed_tokens.weight")) source.add("shared.weight", {{"encoder.embed_tokens.weight"}});
  return source;
}

}  // namespace sinter
