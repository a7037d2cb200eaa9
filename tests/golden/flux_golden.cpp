#include "golden/transformer_checks.h"
#include "models/checkpoint_names.h"
#include "models/flux.h"

namespace sinter::golden {
namespace {

constexpr double kTolerance = 2e-5;

/// `pe` is [1, 1, positions, pairs, 2, 2]: rotations as matrices {{cos, -sin}, {sin, cos}}.
void check_rope(const ForwardCheck& check, const FluxConfig& config) {
  const Tensor &ids = check.get("rope/ids"), &want = check.get("rope/pe");
  const int64_t positions = ids.dim(1);
  Graph graph;
  std::array<Value, 3> axes;
  std::map<std::string, Tensor> inputs;
  for (int axis = 0; axis < 3; ++axis) {
    std::string name = "axis" + std::to_string(axis);
    axes[size_t(axis)] = graph.input(name, {DType::f32, {positions}});
    inputs[name] = Tensor(DType::f32, {positions});
    for (int64_t i = 0; i < positions; ++i) inputs[name].f32()[size_t(i)] = ids.f32()[size_t(3 * i + axis)];
  }
  Rope rope = rope_table(config, axes);
  graph.output("cos", rope.cos);
  graph.output("sin", rope.sin);
  auto got = check.run(graph, inputs, [](const std::string&) { return Tensor(); });
  Tensor ours(DType::f32, want.shape());
  // Ours stand by element: cosines twice, the sine negative at the first element of a pair.
  for (size_t i = 0; i < size_t(got.at(0).count()); i += 2) {
    std::span<const float> cos = got[0].f32().subspan(i, 2), sin = got[1].f32().subspan(i, 2);
    std::ranges::copy(std::array{cos[0], sin[0], sin[1], cos[1]}, ours.f32().begin() + ptrdiff_t(2 * i));
  }
  check.report.compare("rope/pe", relative_error(ours, want), kTolerance);
}

void check_latent_format(const ForwardCheck& check) {
  const LatentFormat& format = find_family("flux1-dev").latent;
  const Tensor& in = check.get("latent_format/in");
  Tensor into(DType::f32, in.shape()), out(DType::f32, in.shape());
  for (size_t i = 0; i < size_t(in.count()); ++i) {
    into.f32()[i] = (in.f32()[i] - float(format.shift)) * float(format.scale);
    out.f32()[i] = in.f32()[i] / float(format.scale) + float(format.shift);
  }
  check.report.compare("latent_format/process_in", relative_error(into, check.get("latent_format/process_in")), 1e-6);
  check.report.compare("latent_format/process_out", relative_error(out, check.get("latent_format/process_out")), 1e-6);
}

}  // namespace

void check_flux(const ForwardCheck& check, const std::string& checkpoint) {
  Weights weights = open_component(check.directory + "/checkpoints/" + checkpoint, Component::Denoiser);
  FluxConfig config = detect_flux(weights);
  Graph graph;
  build_flux(graph, config, {Dim::symbol("batch"), Dim::symbol("height"), Dim::symbol("width"), Dim::symbol("text")},
             check.arithmetic.options());
  check_weights(weights_of(graph), weights);
  for (const std::string& prefix : check.cases("transformer"))
    guarded(prefix + "out", check.report, [&] {
      check.know_block_trace(prefix);
      std::map<std::string, Tensor> inputs;
      for (const char* name : {"x", "timestep", "context", "y", "guidance"}) inputs[name] = check.get(prefix + name);
      Tensor out = check.run_denoiser(graph, inputs, loader(graph, weights)).at(0);
      check.compare(prefix + "out", out, Part::Denoiser, kTolerance);
    });
  guarded("rope/pe", check.report, [&] { check_rope(check, config); });
  guarded("latent_format", check.report, [&] { check_latent_format(check); });
}

}  // namespace sinter::golden
