#include "models/synthetic_checkpoint.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/file.h"
#include "models/checkpoint_names.h"
#include "models/clip.h"
#include "models/flux.h"
#include "models/t5.h"
#include "models/unet.h"
#include "models/vae_image.h"
#include "parameter_table.h"
#include "temporary_folder.h"
#include "text/vocabulary.h"

namespace sinter {
namespace {

ParameterTable table_of(const SyntheticOptions& options, std::string_view prefix = "") {
  ParameterTable table;
  for (auto& tensor : synthetic_checkpoint(options).tensors)
    if (tensor.name.starts_with(prefix)) table.shapes[tensor.name.substr(prefix.size())] = tensor.shape;
  return table;
}

/// Fails unless the file has every weight that this network's graph declares.
void expect_complete(const ModelParts& model, Component component) {
  const Weights& weights = model.weights(component);
  Graph graph;
  Dim batch = Dim::symbol("batch"), height = Dim::symbol("height"), width = Dim::symbol("width"), tokens = Dim::symbol("tokens");
  switch (component) {
    case Component::Denoiser:
      if (model.family == &sd15_family || model.family == &sdxl_family)
        build_unet(graph, detect_unet(weights), {batch, height, width, tokens});
      else
        build_flux(graph, detect_flux(weights), {batch, height, width, tokens});
      break;
    case Component::Vae:
      build_vae_decoder(graph, detect_vae(weights), batch, height, width);
      break;
    case Component::ClipL:
      build_clip(graph, detect_clip(weights, ClipKind::l), batch, {{ClipOutput::pooled, "pooled"}});
      break;
    case Component::ClipG:
      build_clip(graph, detect_clip(weights, ClipKind::g), batch, {{ClipOutput::projected, "projected"}});
      break;
    case Component::T5:
      build_t5(graph, detect_t5(weights), batch, tokens);
      break;
  }
  check_weights(weights_of(graph), weights);
}

TEST_CASE("synthetic checkpoints have the names and shapes of released single files") {
  ParameterTable sd15 = table_of({.family = "sd15"}), sdxl = table_of({.family = "sdxl"});
  CHECK(sd15.shapes.size() == 1130);
  CHECK(sd15.parameters() == 1066235307);
  CHECK(sd15.digest() == "cbd61750966bce48");
  CHECK(sdxl.shapes.size() == 2514);
  CHECK(sdxl.parameters() == 3468837868);
  CHECK(sdxl.digest() == "3bab1f809ccaca6d");
  CHECK(table_of({.family = "flux1-dev"}, "model.diffusion_model.").digest() == "54f41176ae5ce6f9");
  CHECK(table_of({.family = "flux1-schnell"}, "model.diffusion_model.").digest() == "c07962851a81b0ba");
  CHECK(table_of({.family = "flux1-dev"}, "vae.").digest() == "312604292a540d82");
  CHECK(table_of({.family = "flux1-dev"}, "text_encoders.clip_l.transformer.").digest() == "2bf08036a32f0468");
  CHECK(table_of({.family = "flux1-dev"}, "text_encoders.t5xxl.transformer.").digest() == "22eeda6401f40673");
}

TEST_CASE("a tiny synthetic checkpoint opens as a complete model of its family, with vocabularies beside it") {
  ThreadPool pool(2);
  for (const char* family : {"sd15", "sdxl", "flux1-dev", "flux1-schnell"}) {
    CAPTURE(family);
    TemporaryFolder folder;
    write_synthetic_checkpoint(folder / "tiny.safetensors", {.family = family, .tiny = true}, pool);
    ModelParts model = open_model(folder / "tiny.safetensors");
    CHECK(model.family->name == family);
    for (Component component : model.family->text_encoders) expect_complete(model, component);
    expect_complete(model, Component::Denoiser);
    expect_complete(model, Component::Vae);
    VocabularySearch search{.model = folder / "tiny.safetensors"};
    CHECK(load_clip_tokenizer(find_vocabulary(VocabularyKind::Clip, search)).largest_id() == 49407);
    if (model.has(Component::T5)) CHECK(load_t5_tokenizer(find_vocabulary(VocabularyKind::T5, search)).largest_id() < 32128);
  }
}

TEST_CASE("equal options give equal files, another seed gives other weights") {
  TemporaryFolder folder;
  ThreadPool one(1), three(3);
  auto written = [&](const char* name, uint64_t seed, ThreadPool& pool) {
    write_synthetic_checkpoint(folder / name, {.tiny = true, .seed = seed}, pool);
    return read_file(folder / name);
  };
  std::string first = written("a.safetensors", 1, one);
  CHECK(first == written("b.safetensors", 1, three));
  CHECK(first != written("c.safetensors", 2, one));
}

TEST_CASE("synthetic weights are a bell as wide as their fan-in asks for, norms are near one") {
  TemporaryFolder folder;
  ThreadPool pool(2);
  write_synthetic_checkpoint(folder / "a.safetensors", {.tiny = true, .dtype = DType::f32}, pool);
  Checkpoint file = Checkpoint::open(folder / "a.safetensors");
  auto moments = [&](const char* name) {
    Tensor tensor = file.tensor(name).to(DType::f32).clone();
    double sum = 0, squares = 0;
    for (float x : tensor.f32()) sum += x, squares += double(x) * x;
    double mean = sum / double(tensor.count());
    return std::pair(mean, std::sqrt(squares / double(tensor.count()) - mean * mean));
  };
  auto [mean, deviation] = moments("model.diffusion_model.input_blocks.4.0.out_layers.3.weight");  // [64, 64, 3, 3]
  CHECK(std::abs(mean) < 0.001);
  CHECK(deviation == doctest::Approx(1.0 / 24).epsilon(0.01));
  CHECK(moments("model.diffusion_model.out.0.weight").first == doctest::Approx(1).epsilon(0.05));
}

TEST_CASE("a family or an element type that no checkpoint has is refused") {
  CHECK_THROWS_WITH_AS(synthetic_checkpoint({.family = "sd3"}), doctest::Contains("sd15, sdxl, flux1-dev"), Error);
  CHECK_THROWS_WITH_AS(synthetic_checkpoint({.dtype = DType::i8}), doctest::Contains("f32, f16 or bf16, not i8"), Error);
}

}  // namespace
}  // namespace sinter
