#include "golden/network_checks.h"
#include "models/checkpoint_names.h"
#include "models/vae_image.h"

namespace sinter::golden {
namespace {

constexpr double kTolerance = 2e-5;

struct Vae {
  Weights weights;
  VaeConfig config;
};

void check_encoder(const ForwardCheck& check, const Vae& vae, const std::string& prefix) {
  check.know_block_trace(prefix);
  const Tensor& x = check.get(prefix + "x");
  Graph graph;
  build_vae_encoder(graph, vae.config, Dim::symbol("batch"), Dim::symbol("height"), Dim::symbol("width"),
                    check.arithmetic.options());
  check_weights(weights_of(graph), vae.weights);
  auto outputs = check.run(graph, {{"x", x}}, loader(graph, vae.weights));
  for (size_t i = 0; i < graph.outputs().size(); ++i) {
    std::string name = prefix + graph.outputs()[i].name;
    check.compare(name, outputs.at(i), Part::Autoencoder, kTolerance);
  }
}

void check_decoder(const ForwardCheck& check, const Vae& vae, const std::string& prefix) {
  check.know_block_trace(prefix);
  Graph graph;
  build_vae_decoder(graph, vae.config, Dim::symbol("batch"), Dim::symbol("height"), Dim::symbol("width"),
                    check.arithmetic.options());
  check_weights(weights_of(graph), vae.weights);
  auto outputs = check.run(graph, {{"z", check.get(prefix + "z")}}, loader(graph, vae.weights));
  check.compare(prefix + "out", outputs.at(0), Part::Autoencoder, kTolerance);
}

}  // namespace

void check_vae(const ForwardCheck& check, const std::string& checkpoint) {
  Vae vae;
  vae.weights = open_component(check.directory + "/checkpoints/" + checkpoint, Component::Vae);
  vae.config = detect_vae(vae.weights);
  for (const std::string& prefix : check.cases("vae_encode"))
    guarded(prefix, check.report, [&] { check_encoder(check, vae, prefix); });
  for (const std::string& prefix : check.cases("vae_decode"))
    guarded(prefix, check.report, [&] { check_decoder(check, vae, prefix); });
}

}  // namespace sinter::golden
