#include <cmath>
#include <set>

#include "golden/transformer_checks.h"
#include "models/checkpoint_names.h"
#include "models/clip.h"
#include "models/flux.h"
#include "models/lora.h"
#include "models/unet.h"

namespace sinter::golden {
namespace {

constexpr double kStrength = 0.7;

/// A network with what it is made of.
struct Network {
  Weights weights;
  std::shared_ptr<Graph> graph = std::make_shared<Graph>();
};

Dim symbol(const char* name) { return Dim::symbol(name); }

Network denoiser(const std::string& path) {
  Network n{open_component(path, Component::Denoiser)};
  if (n.weights.has("img_in.weight"))
    build_flux(*n.graph, detect_flux(n.weights), {symbol("batch"), symbol("height"), symbol("width"), symbol("text")});
  else
    build_unet(*n.graph, detect_unet(n.weights), {symbol("batch"), symbol("height"), symbol("width"), symbol("context_tokens")});
  return n;
}

Network clip(const std::string& path, Component component) {
  Network n{open_component(path, component)};
  bool g = component == Component::ClipG;
  build_clip(*n.graph, detect_clip(n.weights, g ? ClipKind::g : ClipKind::l), symbol("batch"),
             {{ClipOutput::hidden, "last"}, {g ? ClipOutput::projected : ClipOutput::pooled, "pooled"}});
  return n;
}

/// "sd15_kohya" -> the networks its files are made for.
std::map<Component, Network> networks_of(const std::string& folder, const std::string& tag) {
  std::map<Component, Network> networks;
  bool sdxl = tag.starts_with("sdxl"), flux = tag.starts_with("flux");
  const std::string text = folder + (sdxl ? "tiny_sdxl.safetensors" : "tiny_sd15.safetensors");
  networks.emplace(Component::Denoiser, denoiser(flux ? folder + "tiny_flux_dev.safetensors" : text));
  networks.emplace(Component::ClipL, clip(text, Component::ClipL));
  if (sdxl) networks.emplace(Component::ClipG, clip(text, Component::ClipG));
  return networks;
}

/// The component and the weight behind a key, without the tag.
std::pair<Component, std::string> parse_weight(std::string key) {
  auto strip = [&](const std::string& prefix) {
    bool found = key.starts_with(prefix);
    if (found) key.erase(0, prefix.size());
    return found;
  };
  if (strip("te/clip_l.transformer.")) return {Component::ClipL, key};
  if (strip("te/clip_g.transformer.")) return {Component::ClipG, key};
  strip("model.diffusion_model.");
  return {Component::Denoiser, key};
}

/// The row of `all` that each row of `want` stands for.
Tensor picked_rows(const Tensor& all, const Tensor& index, const Tensor& want) {
  Tensor out(DType::f32, want.shape());
  int64_t width = want.count() / want.dim(0);
  for (int64_t i = 0; i < index.count(); ++i)
    std::copy_n(all.f32().data() + index.i64()[size_t(i)] * width, width, out.f32().data() + i * width);
  return out;
}

double norm_of(const Tensor& t) {
  double sum = 0;
  for (float v : t.f32()) sum += double(v) * v;
  return std::sqrt(sum);
}

/// Compares everything that the file has about one weight.
void check_weight(GoldenFile& file, const std::string& key, const Tensor& ours, double tolerance, GoldenReport& report) {
  if (file.has(key)) return report.compare(key, relative_error(ours, file.get(key)), tolerance);
  const Tensor &rows = file.get(key + "#rows"), &index = file.get(key + "#row_index");
  report.compare(key + "#rows", relative_error(picked_rows(ours, index, rows), rows), tolerance);
  double l2 = file.get(key + "#l2").f32()[0];
  report.compare(key + "#l2", std::abs(norm_of(ours) - l2) / l2, tolerance);
}

LoraFile open_lora(const std::string& directory, const std::string& tag, const std::map<Component, Network>& networks) {
  std::vector<LoraNetwork> targets;
  for (auto& [component, network] : networks) targets.push_back({component, weights_of(*network.graph)});
  return LoraFile::open(directory + "/loras/tiny_" + tag + ".safetensors", targets);
}

void check_file(const std::string& directory, GoldenFile& file, const std::string& tag, GoldenReport& report) {
  auto networks = networks_of(directory + "/checkpoints/", tag);
  auto lora = std::make_shared<LoraFile>(open_lora(directory, tag, networks));
  for (const std::string& warning : lora->warnings) report.fail(tag, warning);
  LoraStack stack({{lora, kStrength, kStrength}});
  ThreadPool pool(2);

  std::set<std::string> keys;
  for (auto& [name, tensor] : file.tensors())
    if (name.starts_with(tag + "/")) keys.insert(name.substr(0, name.find('#')));
  for (const std::string& key : keys)
    guarded(key, report, [&] {
      auto [component, weight] = parse_weight(key.substr(tag.size() + 1));
      double tolerance = tag.ends_with("lycoris") ? 1e-5 : 2e-6;
      if (!stack.changes(component, weight)) return report.fail(key, "the LoRA was not found to change this weight");
      check_weight(file, key, stack.apply(component, weight, networks.at(component).weights.load(weight), pool), tolerance,
                   report);
    });
  std::set<std::pair<Component, std::string>> changed;
  for (const LoraPatch& patch : lora->patches) changed.insert({patch.place.component, patch.place.weight});
  if (changed.size() != keys.size()) report.fail(tag, "weights are changed that the reference does not change");
}

void check_forward(const std::string& directory, GoldenFile& file, const GraphRunner& run, GoldenReport& report) {
  const std::string prefix = "sd15_kohya_forward/";
  auto networks = networks_of(directory + "/checkpoints/", "sd15_kohya");
  auto lora = std::make_shared<LoraFile>(open_lora(directory, "sd15_kohya", networks));
  LoraStack stack({{lora, kStrength, kStrength}});
  ThreadPool pool(2);
  const Network& unet = networks.at(Component::Denoiser);
  std::map<std::string, Tensor> inputs;
  for (const char* name : {"x", "timesteps", "context"}) inputs[name] = file.get(prefix + name);
  auto plain = loader(*unet.graph, unet.weights);
  auto patched = [&](const std::string& name) { return stack.apply(Component::Denoiser, name, plain(name), pool); };
  Tensor without = run(*unet.graph, inputs, plain).at(0), with = run(*unet.graph, inputs, patched).at(0);
  report.compare(prefix + "out_without", relative_error(without, file.get(prefix + "out_without")), 2e-5);
  report.compare(prefix + "out_with_lora", relative_error(with, file.get(prefix + "out_with_lora")), 2e-5);
}

}  // namespace

void check_lora(const std::string& directory, const GraphRunner& run, GoldenReport& report) {
  GoldenFile file(directory + "/lora_patched.safetensors");
  std::set<std::string> tags;
  for (auto& [name, tensor] : file.tensors()) tags.insert(path_parts(name)[0]);
  for (const std::string& tag : tags)
    guarded(tag, report, [&] {
      if (tag.ends_with("_forward"))
        check_forward(directory, file, run, report);
      else
        check_file(directory, file, tag, report);
    });
  file.report_unused(report);
}

}  // namespace sinter::golden
