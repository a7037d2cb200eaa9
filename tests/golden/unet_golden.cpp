#include "golden/network_checks.h"
#include "models/checkpoint_names.h"
#include "models/unet.h"

namespace sinter::golden {
namespace {

constexpr double kTolerance = 2e-5;
/// Down to one pixel in 32 groups of one channel each, every normalised value is the bias: rounding decides the rest.
constexpr double kOnePixelTolerance = 1e-3;

/// True where some level has but one value in each group of a norm.
bool is_ill_conditioned(const UnetConfig& c, const Tensor& x) {
  int64_t height = x.dim(2), width = x.dim(3);
  for (const auto& level : c.levels) {
    if (height * width == 1 && level.channels == 32) return true;
    height = (height + 1) / 2, width = (width + 1) / 2;
  }
  return false;
}

}  // namespace

void check_unet(const ForwardCheck& check, const std::string& checkpoint) {
  ModelParts model = open_model(check.directory + "/checkpoints/" + checkpoint);
  const Weights& weights = model.weights(Component::Denoiser);
  UnetConfig config = detect_unet(weights);
  for (const std::string& prefix : check.cases("unet"))
    guarded(prefix + "out", check.report, [&] {
      check.know_block_trace(prefix);
      std::map<std::string, Tensor> inputs;
      for (const char* name : {"x", "timesteps", "context", "y"})
        if (check.file.has(prefix + name)) inputs[name] = check.get(prefix + name);
      const Tensor& want = check.get(prefix + "out");

      Graph graph;
      Dim batch = Dim::symbol("batch"), height = Dim::symbol("height"), width = Dim::symbol("width");
      build_unet(graph, config, {batch, height, width, Dim::symbol("context_tokens")});
      check_weights(weights_of(graph), weights);
      Tensor out = check.run(graph, inputs, loader(graph, weights)).at(0);
      bool loose = is_ill_conditioned(config, inputs.at("x"));
      check.report.compare(prefix + "out", relative_error(out, want), loose ? kOnePixelTolerance : kTolerance);
    });
}

}  // namespace sinter::golden
