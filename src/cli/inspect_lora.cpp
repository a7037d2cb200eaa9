#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/inspect.h"
#include "models/clip.h"
#include "models/family.h"
#include "models/flux.h"
#include "models/lora_keys.h"
#include "models/t5.h"
#include "models/unet.h"

namespace sinter {
namespace {

using nlohmann::ordered_json;

template <class Build>
LoraNetwork network(Component component, Build&& build) {
  Graph graph;
  build(graph);
  return {component, weights_of(graph)};
}

LoraNetwork clip(Component component, const ClipConfig& config) {
  return network(component, [&](Graph& g) { build_clip(g, config, Dim::symbol("batch"), {{ClipOutput::projected, "pooled"}}); });
}

LoraNetwork unet(const UnetConfig& config) {
  return network(Component::Denoiser, [&](Graph& g) {
    build_unet(g, config, {Dim::symbol("batch"), Dim::symbol("height"), Dim::symbol("width"), Dim::symbol("tokens")});
  });
}

LoraNetwork flux() {
  return network(Component::Denoiser, [&](Graph& g) {
    build_flux(g, {}, {Dim::symbol("batch"), Dim::symbol("height"), Dim::symbol("width"), Dim::symbol("tokens")});
  });
}

/// A family as LoRA files address it. Only names count here: those of the full size hold for smaller networks too.
struct Target {
  const char* family;
  LoraKeyMap keys;
};

std::vector<Target> targets() {
  auto keys = [](std::vector<LoraNetwork> networks) { return lora_key_map(networks); };
  LoraNetwork t5 = network(Component::T5, [](Graph& g) { build_t5(g, {}, Dim::symbol("batch"), Dim::symbol("tokens")); });
  return {{"sd15", keys({unet(sd15_unet_config()), clip(Component::ClipL, clip_l_config())})},
          {"sdxl",
           keys({unet(sdxl_unet_config()), clip(Component::ClipL, clip_l_config()), clip(Component::ClipG, clip_g_config())})},
          {"flux1", keys({flux(), clip(Component::ClipL, clip_l_config()), t5})}};
}

/// The parts of one module of the file.
struct Module {
  std::map<LoraRole, std::string> keys;  ///< by role
  bool has(LoraRole role) const { return keys.contains(role); }
};

std::string kind_of(const Module& m) {
  std::string kind = "other";
  if (m.has(LoraRole::hada_w1_a))
    kind = "LoHa";
  else if (m.has(LoraRole::lokr_w1) || m.has(LoraRole::lokr_w1_a))
    kind = "LoKr";
  else if (m.has(LoraRole::down))
    kind = "LoRA";
  else if (m.has(LoraRole::diff) || m.has(LoraRole::diff_b) || m.has(LoraRole::w_norm) || m.has(LoraRole::b_norm))
    kind = "difference";
  else if (m.has(LoraRole::set_weight))
    kind = "replacement";
  return m.has(LoraRole::dora_scale) ? kind + " with DoRA" : kind;
}

/// The inner size of the product; 0 where the change has none.
int64_t rank_of(const Module& m, const Checkpoint& file) {
  for (LoraRole role : {LoraRole::down, LoraRole::hada_w1_b, LoraRole::lokr_w2_b, LoraRole::lokr_w1_b}) {
    auto found = m.keys.find(role);
    if (found == m.keys.end()) continue;
    auto shape = file.find(found->second)->shape;
    return shape.empty() ? 0 : shape[0];
  }
  return 0;
}

std::optional<double> alpha_of(const Module& m, const Checkpoint& file) {
  auto found = m.keys.find(LoraRole::alpha);
  if (found == m.keys.end()) return {};
  Tensor value = file.tensor(found->second).to(DType::f32);
  if (value.count() != 1) return {};
  return double(value.clone().f32()[0]);
}

/// "8", "4 to 16", "".
template <class T>
std::string range_text(const std::set<T>& values) {
  if (values.empty()) return "";
  return values.size() == 1 ? fmt::format("{}", *values.begin()) : fmt::format("{} to {}", *values.begin(), *values.rbegin());
}

}  // namespace

ordered_json inspect_lora(const Checkpoint& file) {
  std::map<std::string, Module, std::less<>> modules;
  std::vector<std::string> unknown;
  for (const std::string& name : file.names()) {
    std::string_view module;
    LoraRole role;
    if (split_lora_key(name, module, role))
      modules[std::string(module)].keys[role] = name;
    else
      unknown.push_back(name);
  }
  std::vector<Target> all = targets();
  auto known_to = [&](const Target& target) {
    return std::ranges::count_if(modules, [&](auto& entry) { return target.keys.contains(entry.first); });
  };
  const Target& best = *std::ranges::max_element(all, {}, known_to);

  std::map<std::string, int> kinds, places;
  std::set<int64_t> ranks;
  std::set<double> alphas;
  for (auto& [name, module] : modules) {
    auto place = best.keys.find(name);
    if (place == best.keys.end()) {
      for (auto& [role, key] : module.keys) unknown.push_back(key);
      continue;
    }
    ++places[std::string(sinter::name(place->second.component))];
    ++kinds[kind_of(module)];
    if (int64_t rank = rank_of(module, file)) ranks.insert(rank);
    if (auto alpha = alpha_of(module, file)) alphas.insert(*alpha);
  }
  std::ranges::sort(unknown);
  ordered_json out = {{"kind", "LoRA"},
                      {"family", known_to(best) ? ordered_json(best.family) : ordered_json()},
                      {"networks", kinds},
                      {"rank", range_text(ranks)},
                      {"alpha", range_text(alphas)},
                      {"modules", places},
                      {"unknown_keys", unknown},
                      {"tensors", file.size()},
                      {"metadata", ordered_json::object()}};
  for (auto& [key, value] : file.metadata()) out["metadata"][key] = value;
  return out;
}

ordered_json inspect_embedding(const Checkpoint& file) {
  ordered_json vectors = ordered_json::array();
  for (const std::string& name : file.names()) {
    auto shape = file.find(name)->shape;
    if (shape.empty() || shape.size() > 2) continue;
    vectors.push_back({{"tensor", name}, {"vectors", shape.size() == 2 ? shape[0] : 1}, {"width", shape.back()}});
  }
  ordered_json out = {{"kind", "embedding"}, {"vectors", vectors}, {"metadata", ordered_json::object()}};
  for (auto& [key, value] : file.metadata()) out["metadata"][key] = value;
  return out;
}

}  // namespace sinter
