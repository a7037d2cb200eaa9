#include "models/lora_keys.h"

#include <algorithm>
#include <array>
#include <set>

namespace sinter {
namespace {

struct Suffix {
  std::string_view text;
  LoraRole role;
};
constexpr std::array kSuffixes = std::to_array<Suffix>({
    {".lora_up.weight", LoraRole::up},
    {".lora_B.weight", LoraRole::up},
    {".lora_B.default.weight", LoraRole::up},
    {".lora_B", LoraRole::up},
    {"_lora.up.weight", LoraRole::up},
    {".lora.up.weight", LoraRole::up},
    {".lora_linear_layer.up.weight", LoraRole::up},
    {".lora_down.weight", LoraRole::down},
    {".lora_A.weight", LoraRole::down},
    {".lora_A.default.weight", LoraRole::down},
    {".lora_A", LoraRole::down},
    {"_lora.down.weight", LoraRole::down},
    {".lora.down.weight", LoraRole::down},
    {".lora_linear_layer.down.weight", LoraRole::down},
    {".lora_mid.weight", LoraRole::mid},
    {".alpha", LoraRole::alpha},
    {".dora_scale", LoraRole::dora_scale},
    {".hada_w1_a", LoraRole::hada_w1_a},
    {".hada_w1_b", LoraRole::hada_w1_b},
    {".hada_w2_a", LoraRole::hada_w2_a},
    {".hada_w2_b", LoraRole::hada_w2_b},
    {".hada_t1", LoraRole::hada_t1},
    {".hada_t2", LoraRole::hada_t2},
    {".lokr_w1", LoraRole::lokr_w1},
    {".lokr_w1_a", LoraRole::lokr_w1_a},
    {".lokr_w1_b", LoraRole::lokr_w1_b},
    {".lokr_w2", LoraRole::lokr_w2},
    {".lokr_w2_a", LoraRole::lokr_w2_a},
    {".lokr_w2_b", LoraRole::lokr_w2_b},
    {".lokr_t2", LoraRole::lokr_t2},
    {".diff", LoraRole::diff},
    {".diff_b", LoraRole::diff_b},
    {".set_weight", LoraRole::set_weight},
    {".w_norm", LoraRole::w_norm},
    {".b_norm", LoraRole::b_norm},
});

using Names = std::set<std::string, std::less<>>;

std::string replaced(std::string text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size()) text.replace(at, from.size(), to);
  return text;
}
std::string with_underscores(std::string path) {
  std::ranges::replace(path, '.', '_');
  return path;
}
std::string without_weight(std::string_view name) {
  return std::string(name.ends_with(".weight") ? name.substr(0, name.size() - 7) : name);
}

/// The first `count` names of a dotted path, and the rest behind them.
struct Path {
  std::vector<std::string> parts;
  explicit Path(std::string_view text) {
    for (size_t at = 0; at <= text.size();) {
      size_t end = std::min(text.find('.', at), text.size());
      parts.emplace_back(text.substr(at, end - at));
      at = end + 1;
    }
  }
  std::string rest(size_t from) const {
    std::string out;
    for (size_t i = from; i < parts.size(); ++i) out += (i > from ? "." : "") + parts[i];
    return out;
  }
};

// U-Net: paths of single files (input_blocks.4.1...) in diffusers' spelling (down_blocks.1.attentions.0...).

std::string renamed_residual(const std::string& path) {
  static const std::map<std::string, std::string, std::less<>> names = {
      {"in_layers.0", "norm1"},  {"in_layers.2", "conv1"},  {"emb_layers.1", "time_emb_proj"},
      {"out_layers.0", "norm2"}, {"out_layers.3", "conv2"}, {"skip_connection", "conv_shortcut"}};
  auto found = names.find(path);
  return found == names.end() ? path : found->second;
}

/// Prefixes of single files with what diffusers calls them; walks the blocks as they follow one another.
std::map<std::string, std::string> unet_prefixes(const Names& weights) {
  std::map<std::string, std::string> to = {{"time_embed.0", "time_embedding.linear_1"},
                                           {"time_embed.2", "time_embedding.linear_2"},
                                           {"label_emb.0.0", "add_embedding.linear_1"},
                                           {"label_emb.0.2", "add_embedding.linear_2"},
                                           {"input_blocks.0.0", "conv_in"},
                                           {"out.0", "conv_norm_out"},
                                           {"out.2", "conv_out"},
                                           {"middle_block.0", "mid_block.resnets.0"},
                                           {"middle_block.1", "mid_block.attentions.0"},
                                           {"middle_block.2", "mid_block.resnets.1"}};
  auto has_any = [&](const std::string& prefix) {
    auto found = weights.lower_bound(prefix + ".");
    return found != weights.end() && found->starts_with(prefix + ".");
  };
  int level = 0, place = 0;
  for (int n = 1; has_any("input_blocks." + std::to_string(n)); ++n) {
    std::string block = "input_blocks." + std::to_string(n), down = "down_blocks." + std::to_string(level);
    if (has_any(block + ".0.op")) {
      to[block + ".0.op"] = down + ".downsamplers.0.conv";
      ++level, place = 0;
      continue;
    }
    to[block + ".0"] = down + ".resnets." + std::to_string(place);
    to[block + ".1"] = down + ".attentions." + std::to_string(place++);
  }
  level = place = 0;
  for (int n = 0; has_any("output_blocks." + std::to_string(n)); ++n) {
    std::string block = "output_blocks." + std::to_string(n), up = "up_blocks." + std::to_string(level);
    to[block + ".0"] = up + ".resnets." + std::to_string(place);
    bool plain = has_any(block + ".1.conv");
    if (!plain) to[block + ".1"] = up + ".attentions." + std::to_string(place);
    ++place;
    if (!plain && !has_any(block + ".2.conv")) continue;
    to[block + (plain ? ".1.conv" : ".2.conv")] = up + ".upsamplers.0.conv";
    ++level, place = 0;
  }
  return to;
}

/// Empty where diffusers has no such layer.
std::string diffusers_unet_path(const std::map<std::string, std::string>& prefixes, const std::string& path) {
  Path names(path);
  for (size_t length = std::min<size_t>(names.parts.size(), 4); length > 0; --length) {
    std::string head = names.parts[0];
    for (size_t i = 1; i < length; ++i) head += "." + names.parts[i];
    auto found = prefixes.find(head);
    if (found == prefixes.end()) continue;
    std::string rest = names.rest(length);
    if (rest.empty()) return found->second;
    return found->second + "." + (found->second.find("resnets") != std::string::npos ? renamed_residual(rest) : rest);
  }
  return {};
}

class KeyMapBuilder {
 public:
  LoraKeyMap take() { return std::move(map_); }

  void add_network(const LoraNetwork& network, bool clip_l_too, bool clip_g_too) {
    Names names;
    for (const WeightUse& use : network.weights) names.insert(use.name);
    bool flux = names.contains("img_in.weight");
    auto prefixes = unet_prefixes(names);
    for (const WeightUse& use : network.weights) {
      LoraPlace place{network.component, use.name, {}};
      for (const Dim& dim : use.type.shape) place.shape.push_back(dim.constant());
      if (place.shape.empty()) continue;  // nothing addresses a single number
      place.rows = place.shape[0];
      std::string path = without_weight(use.name);
      switch (network.component) {
        case Component::Denoiser:
          add_native(path, place);
          if (flux)
            add_diffusers_flux(path, place);
          else if (path != use.name)
            add_diffusers_unet(diffusers_unet_path(prefixes, path), place);
          break;
        case Component::Vae:
          break;  // no trainer changes it
        case Component::ClipL:
          for (const char* p : {"lora_te_", "lora_te1_"}) add(p + with_underscores(path), place);
          for (const char* p : {"text_encoder.", "text_encoders.clip_l.transformer."}) add(p + path, place);
          break;
        case Component::ClipG:
          add("lora_te2_" + with_underscores(path), place);
          for (const char* p : {"text_encoder_2.", "text_encoders.clip_g.transformer."}) add(p + path, place);
          if (clip_l_too) break;
          add("lora_te_" + with_underscores(path), place);  // the refiner has this encoder alone
          add("text_encoder." + path, place);
          break;
        case Component::T5:
          add("lora_te3_" + with_underscores(path), place);
          if (!clip_g_too) add("lora_te2_" + with_underscores(path), place);
          add((clip_g_too ? "text_encoder_3." : "text_encoder_2.") + path, place);
          add("text_encoders.t5xxl.transformer." + path, place);
          break;
      }
    }
  }

 private:
  void add(const std::string& module, const LoraPlace& place) { map_.try_emplace(module, place); }

  void add_native(const std::string& path, const LoraPlace& place) {
    add("lora_unet_" + with_underscores(path), place);
    add("diffusion_model." + path, place);
    // Newer software spells FLUX's norms so.
    if (path.ends_with("_norm.scale")) add("diffusion_model." + path.substr(0, path.size() - 6), place);
  }

  void add_diffusers_unet(const std::string& path, const LoraPlace& place) {
    if (path.empty()) return;
    for (const char* prefix : {"lora_unet_", "lycoris_"}) add(prefix + with_underscores(path), place);
    std::string processor = replaced(path, ".to_", ".processor.to_");
    if (processor.ends_with(".to_out.0")) processor.resize(processor.size() - 2);
    for (const char* prefix : {"", "unet."})
      for (const std::string& spelling : {path, processor}) add(prefix + spelling, place);
  }

  void add_flux_path(const std::string& diffusers, LoraPlace place, int64_t begin = 0, int64_t rows = -1) {
    place.begin = begin;
    place.rows = rows < 0 ? place.shape[0] - begin : rows;
    if (place.begin < 0 || place.rows <= 0 || place.begin + place.rows > place.shape[0]) return;
    add("transformer." + diffusers, place);
    for (const char* prefix : {"lycoris_", "lora_transformer_"}) add(prefix + with_underscores(diffusers), place);
  }

  /// q, k and v as rows of one matrix.
  void add_fused(const std::string& block, const std::array<const char*, 3>& names, const LoraPlace& place, int64_t rows) {
    for (int i = 0; i < 3; ++i) add_flux_path(block + names[size_t(i)], place, i * rows, rows);
  }

  void add_diffusers_flux(const std::string& path, LoraPlace place) {
    Path names(path);
    if (names.parts[0] == "double_blocks" && names.parts.size() > 3)
      add_double_block("transformer_blocks." + names.parts[1] + ".", names.rest(2), place);
    else if (names.parts[0] == "single_blocks" && names.parts.size() > 2)
      add_single_block("single_transformer_blocks." + names.parts[1] + ".", names.rest(2), path, place);
    else
      add_flux_ends(path, place);
  }

  void add_double_block(const std::string& block, const std::string& layer, const LoraPlace& place) {
    static const std::map<std::string, std::string, std::less<>> names = {{"img_mod.lin", "norm1.linear"},
                                                                          {"txt_mod.lin", "norm1_context.linear"},
                                                                          {"img_attn.proj", "attn.to_out.0"},
                                                                          {"txt_attn.proj", "attn.to_add_out"},
                                                                          {"img_mlp.0", "ff.net.0.proj"},
                                                                          {"img_mlp.2", "ff.net.2"},
                                                                          {"txt_mlp.0", "ff_context.net.0.proj"},
                                                                          {"txt_mlp.2", "ff_context.net.2"},
                                                                          {"img_attn.norm.query_norm.scale", "attn.norm_q"},
                                                                          {"img_attn.norm.key_norm.scale", "attn.norm_k"},
                                                                          {"txt_attn.norm.query_norm.scale", "attn.norm_added_q"},
                                                                          {"txt_attn.norm.key_norm.scale", "attn.norm_added_k"}};
    if (layer == "img_attn.qkv") add_fused(block, {"attn.to_q", "attn.to_k", "attn.to_v"}, place, place.shape[0] / 3);
    if (layer == "txt_attn.qkv")
      add_fused(block, {"attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"}, place, place.shape[0] / 3);
    if (auto found = names.find(layer); found != names.end()) add_flux_path(block + found->second, place);
  }

  void add_single_block(const std::string& block, const std::string& layer, const std::string& path, const LoraPlace& place) {
    static const std::map<std::string, std::string, std::less<>> names = {{"modulation.lin", "norm.linear"},
                                                                          {"linear2", "proj_out"},
                                                                          {"norm.query_norm.scale", "attn.norm_q"},
                                                                          {"norm.key_norm.scale", "attn.norm_k"}};
    if (layer == "linear1" && place.shape.size() == 2) {
      int64_t width = place.shape[1];
      add_fused(block, {"attn.to_q", "attn.to_k", "attn.to_v"}, place, width);
      add_flux_path(block + "proj_mlp", place, 3 * width);
      LoraPlace qkv = place;
      qkv.rows = 3 * width;
      if (qkv.rows <= place.rows) add("lora_unet_" + with_underscores(path) + "_qkv", qkv);
    }
    if (auto found = names.find(layer); found != names.end()) add_flux_path(block + found->second, place);
  }

  void add_flux_ends(const std::string& path, LoraPlace place) {
    static const std::map<std::string, std::string, std::less<>> names = {
        {"img_in", "x_embedder"},
        {"txt_in", "context_embedder"},
        {"time_in.in_layer", "time_text_embed.timestep_embedder.linear_1"},
        {"time_in.out_layer", "time_text_embed.timestep_embedder.linear_2"},
        {"vector_in.in_layer", "time_text_embed.text_embedder.linear_1"},
        {"vector_in.out_layer", "time_text_embed.text_embedder.linear_2"},
        {"guidance_in.in_layer", "time_text_embed.guidance_embedder.linear_1"},
        {"guidance_in.out_layer", "time_text_embed.guidance_embedder.linear_2"},
        {"final_layer.linear", "proj_out"},
        {"final_layer.adaLN_modulation.1", "norm_out.linear"}};
    auto found = names.find(path);
    if (found == names.end()) return;
    // diffusers keeps (scale, shift) here, the single file (shift, scale).
    place.halves_swapped = found->second == "norm_out.linear";
    add_flux_path(found->second, place);
  }

  LoraKeyMap map_;
};

}  // namespace

bool split_lora_key(std::string_view key, std::string_view& module, LoraRole& role) {
  for (const Suffix& suffix : kSuffixes) {
    if (!key.ends_with(suffix.text)) continue;
    module = key.substr(0, key.size() - suffix.text.size());
    role = suffix.role;
    return true;
  }
  return false;
}

LoraKeyMap lora_key_map(std::span<const LoraNetwork> networks) {
  auto present = [&](Component component) {
    return std::ranges::any_of(networks, [&](const LoraNetwork& n) { return n.component == component; });
  };
  KeyMapBuilder builder;
  for (const LoraNetwork& network : networks) builder.add_network(network, present(Component::ClipL), present(Component::ClipG));
  return builder.take();
}

}  // namespace sinter
