#include "golden/golden_test_support.h"
#include "golden/network_checks.h"
#include "models/checkpoint_names.h"
#include "models/unet.h"

using namespace sinter;
using namespace sinter::golden;

namespace {

/// The tiny U-Net of a checkpoint in some types, on the native backend.
struct TypedUnet {
  Session& session;
  Weights weights;
  Graph graph;

  TypedUnet(Session& on, const std::string& checkpoint, const BuildOptions& options)
      : session(on), weights(open_model(checkpoint).weights(Component::Denoiser)) {
    auto size = [](const char* name) { return Dim::symbol(name); };
    build_unet(graph, detect_unet(weights), {size("batch"), size("height"), size("width"), size("context_tokens")}, options);
  }
  Tensor run(GoldenFile& file, const std::string& prefix, bool rounded_to_f16 = false) {
    std::map<std::string, Tensor> inputs;
    for (const char* name : {"x", "timesteps", "context", "y"})
      if (file.has(prefix + name)) inputs[name] = file.get(prefix + name);
    auto load = loader(graph, weights);
    auto read = [&](const std::string& name) { return rounded_to_f16 ? load(name).to(DType::f16) : load(name); };
    return session_runner(session)(graph, inputs, read).at(0).to(DType::f32);
  }
};

}  // namespace

TEST_CASE("a U-Net in bf16 is about as far from f32 as the reference's own") {
  auto folder = golden_folder();
  if (!folder) {
    MESSAGE("skipped: golden data not found");
    return;
  }
  struct Expected {
    std::string model, name;
    double reference;  // error of the reference's bf16 run
  };
  Session session({.backend = Backend::Native}, {.memory_only = true});
  for (auto [model, name, reference] : {Expected{"sd15", "unet/0/", 2.0e-2},
                                        {"sd15", "unet/1/", 2.0e-2},
                                        {"sd15", "unet/2/", 2.0e-2},
                                        {"sd15", "unet/3/", 2.0e-2},
                                        {"sdxl", "unet/0/", 2.3e-2},
                                        {"sdxl", "unet/1/", 1.8e-2}}) {
    CAPTURE(model);
    CAPTURE(name);
    std::string root = folder->string();
    GoldenFile file(root + "/" + model + "_forward.safetensors");
    TypedUnet unet(session, root + "/checkpoints/tiny_" + model + ".safetensors", {.compute = DType::bf16});
    double error = relative_error(unet.run(file, name), file.get(name + "out"));
    CHECK(error > 1e-4);  // it was not computed in f32
    CHECK(error <= 1.5 * reference);
  }
}

TEST_CASE("weights kept in f16 compute what the same values in f32 compute") {
  auto folder = golden_folder();
  if (!folder) {
    MESSAGE("skipped: golden data not found");
    return;
  }
  Session session({.backend = Backend::Native}, {.memory_only = true});
  std::string root = folder->string(), checkpoint = root + "/checkpoints/tiny_sd15.safetensors";
  GoldenFile file(root + "/sd15_forward.safetensors");
  TypedUnet wide(session, checkpoint, {});
  TypedUnet stored(session, checkpoint, {.storage = [](const std::string&) { return DType::f16; }});
  for (const char* name : {"unet/0/", "unet/3/"}) {
    Tensor expected = wide.run(file, name, true);
    CHECK(relative_error(stored.run(file, name), expected) <= 2e-5);
    CHECK(relative_error(stored.run(file, name, true), expected) <= 2e-5);
  }
}
