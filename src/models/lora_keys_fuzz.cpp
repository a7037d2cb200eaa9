#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "base/error.h"
#include "io/safetensors.h"
#include "models/clip.h"
#include "models/flux.h"
#include "models/lora.h"
#include "models/t5.h"
#include "safetensors_mutator.h"

using namespace sinter;

namespace {

LoraNetwork layers(Component component, const std::map<std::string, Shape>& weights) {
  LoraNetwork n{component, {}};
  for (auto& [name, shape] : weights) n.weights.push_back({name, {DType::f32, shape}});
  return n;
}

/// A few layers of every kind that names and shapes distinguish.
std::vector<std::vector<LoraNetwork>> models() {
  LoraNetwork unet = layers(Component::Denoiser, {{"input_blocks.0.0.weight", {4, 4, 3, 3}},
                                                  {"input_blocks.1.0.in_layers.2.weight", {4, 4, 3, 3}},
                                                  {"input_blocks.1.1.proj_in.weight", {4, 4, 1, 1}},
                                                  {"input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.weight", {6, 4}},
                                                  {"input_blocks.1.1.transformer_blocks.0.attn1.to_out.0.bias", {6}},
                                                  {"input_blocks.2.0.op.weight", {4, 4, 3, 3}},
                                                  {"middle_block.1.norm.weight", {4}},
                                                  {"output_blocks.0.1.conv.weight", {4, 4, 3, 3}}});
  LoraNetwork clip = layers(Component::ClipL, {{"text_model.encoder.layers.0.mlp.fc1.weight", {8, 4}},
                                               {"text_model.encoder.layers.0.mlp.fc1.bias", {8}}});
  Graph flux_graph, t5_graph;
  FluxConfig small{.width = 4,
                   .head_size = 4,
                   .mlp = 8,
                   .context_width = 5,
                   .vector_width = 3,
                   .double_blocks = 1,
                   .single_blocks = 1,
                   .axes = {0, 2, 2}};
  build_flux(flux_graph, small, {1, 2, 2, 1});
  build_t5(t5_graph, {.width = 4, .heads = 2, .head_size = 2, .layers = 1, .mlp = 8, .vocabulary = 9}, 1, 4);
  LoraNetwork flux{Component::Denoiser, weights_of(flux_graph)}, t5{Component::T5, weights_of(t5_graph)};
  return {{unet, clip}, {flux, clip, t5}};
}

/// The tensors of the file in memory, as LoraFile::open would see them.
std::map<std::string, Tensor> tensors_of(std::span<const std::byte> file) {
  std::map<std::string, Tensor> tensors;
  for (const SafetensorsEntry& entry : parse_safetensors(file, "fuzz").entries)
    if (entry.dtype)
      tensors.emplace(entry.name, Tensor(*entry.dtype, entry.shape, const_cast<std::byte*>(file.data()) + entry.offset,
                                         std::shared_ptr<const void>(file.data(), [](const void*) {})));
  return tensors;
}

}  // namespace

// Whatever a LoRA file names and however its tensors are shaped: patches that fit, warnings for the rest, and no other end.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto all = models();
  static ThreadPool pool(1);
  try {
    auto tensors = tensors_of({reinterpret_cast<const std::byte*>(data), size});
    for (const std::vector<LoraNetwork>& networks : all) {
      auto lora = std::make_shared<LoraFile>(LoraFile::read(tensors, networks));
      if (lora->warnings.size() > tensors.size()) std::abort();
      LoraStack stack({{lora, 0.5, 0.7}});
      for (const LoraPatch& patch : lora->patches) {
        Tensor weight(DType::f32, patch.place.shape);
        Tensor changed = stack.apply(patch.place.component, patch.place.weight, weight, pool);
        if (changed.shape() != weight.shape()) std::abort();
      }
    }
  } catch (const Error&) {
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return sinter::mutate_safetensors(data, size, max_size, seed);
}
