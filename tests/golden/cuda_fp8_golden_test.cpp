// What f8e4m3 linear layers cost in exactness: on the CPU by doing in the graph what the GPU does in its kernels, and on a GPU.
#include <cmath>
#include <random>

#include "golden/golden_test_support.h"
#include "golden/network_checks.h"
#include "graph/ops.h"
#include "models/checkpoint_names.h"
#include "models/flux.h"
#include "models/unet.h"

using namespace sinter;
using namespace sinter::golden;

namespace {

/// Tiny networks have tiny layers; those of real ones are all this wide and wider.
constexpr int64_t kWidth = 64;
/// Rows as multiples of their largest magnitude / 448 that f8e4m3 can say.
Value quantised(Value x) {
  x = cast(x, DType::f32);
  Value largest = reduce_max(x->graph->add(*find_op("absolute"), {x}), {-1});
  Value scale = (largest + 1e-30) * (1.0 / 448);
  return cast(cast(x / scale, DType::f8e4m3), DType::f32) * scale;
}

/// The graph with the products quantised that lowering makes in f8e4m3.
void quantise_linears(const Graph& from, Graph& to) {
  std::map<const Function*, std::shared_ptr<const Function>> functions;
  copy_graph(from, to, {}, [&](const Node& n, std::span<const Value> in, Graph& graph) -> Value {
    if (n.op == &call_op) {
      CallAttrs attrs = n.attrs.as<CallAttrs>();
      auto& mapped = functions[attrs.function.get()];
      if (!mapped) {
        auto made = std::make_shared<Function>();
        made->name = attrs.function->name;
        quantise_linears(attrs.function->graph, made->graph);
        mapped = made;
      }
      attrs.function = mapped;
      return graph.add(call_op, {in.begin(), in.end()}, Attrs::of(attrs));
    }
    auto fits = [](const Dim& width) { return width.constant() >= kWidth && width.constant() % 16 == 0; };
    if (n.op != &linear_op || in[0].rank() < 3 || !fits(in[0].dim(-1)) || !fits(n.type.shape.back())) return {};
    return cast(linear(quantised(in[0]), quantised(in[1])), DType::bf16);
  });
}

/// Networks with golden outputs, and how far from them they were measured to be with quantised layers played by the CPU. The
/// errors of many layers add up: one alone has 3.7e-2, a network of tiny layers in bf16 2e-2 and less.
struct Case {
  std::string prefix;
  double measured;
};
struct Subject {
  std::string checkpoint, file;
  std::vector<Case> cases;
  std::vector<std::string> inputs;
};
const Subject kSubjects[] = {
    {"tiny_sdxl", "sdxl_forward", {{"unet/0/", 9.4e-2}, {"unet/1/", 10.2e-2}}, {"x", "timesteps", "context", "y"}},
    {"tiny_flux_dev", "flux_forward", {{"transformer/0/", 5.8e-2}}, {"x", "timestep", "context", "y", "guidance"}},
};

void build(const Subject& subject, const Weights& weights, Graph& graph) {
  auto size = [](const char* name) { return Dim::symbol(name); };
  BuildOptions options{.compute = DType::bf16, .storage = {}};
  if (subject.checkpoint == "tiny_flux_dev")
    build_flux(graph, detect_flux(weights), {size("batch"), size("height"), size("width"), size("text")}, options);
  else
    build_unet(graph, detect_unet(weights), {size("batch"), size("height"), size("width"), size("context_tokens")}, options);
}

/// Runs every case with golden data: its error may be `margin` times what was measured.
void check_all(const GraphRunner& run, double margin) {
  auto folder = golden_folder();
  if (!folder) {
    MESSAGE("skipped: golden data not found");
    return;
  }
  for (const Subject& subject : kSubjects) {
    CAPTURE(subject.checkpoint);
    std::string root = folder->string();
    Weights weights = open_component(root + "/checkpoints/" + subject.checkpoint + ".safetensors", Component::Denoiser);
    GoldenFile file(root + "/" + subject.file + ".safetensors");
    Graph graph;
    build(subject, weights, graph);
    for (const auto& [prefix, measured] : subject.cases) {
      CAPTURE(prefix);
      std::map<std::string, Tensor> inputs;
      for (const std::string& name : subject.inputs) inputs[name] = file.get(prefix + name);
      Tensor out = run(graph, inputs, loader(graph, weights)).at(0).to(DType::f32);
      double error = relative_error(out, file.get(prefix + "out"));
      MESSAGE(subject.checkpoint << " " << prefix << ": error " << error);
      CHECK(error > measured / 2);  // it was not computed in wider numbers
      CHECK(error <= margin * measured);
    }
  }
}

}  // namespace

TEST_CASE("one layer in f8e4m3 is off by what rounding its two factors to three fraction bits gives") {
  Graph graph;
  Value x = graph.input("x", {DType::f32, {64, 512}}), w = graph.input("w", {DType::f32, {96, 512}});
  graph.output("exact", linear(x, w));
  graph.output("both", linear(quantised(x), quantised(w)));
  graph.output("x", linear(quantised(x), w));
  graph.output("w", linear(x, quantised(w)));
  std::mt19937 random(5);
  auto normal = [&](std::vector<int64_t> shape) {
    Tensor t(DType::f32, std::move(shape));
    for (float& value : t.f32()) value = std::normal_distribution<float>()(random);
    return t;
  };
  auto out = interpreter_runner()(graph, {{"x", normal({64, 512})}, {"w", normal({96, 512})}}, {});
  double both = relative_error(out[1], out[0]), first = relative_error(out[2], out[0]), second = relative_error(out[3], out[0]);
  MESSAGE("both factors " << both << ", one " << first << ", the other " << second);
  // Rounding errors are spread evenly over a step of 2^-3 to 2^-4 of the value: about 2.6 % in the root of the mean square.
  CHECK(first == doctest::Approx(0.026).epsilon(0.15));
  CHECK(second == doctest::Approx(0.026).epsilon(0.15));
  CHECK(both == doctest::Approx(std::sqrt(first * first + second * second)).epsilon(0.05));
}

TEST_CASE("networks with wide linear layers in f8e4m3, played by the CPU, are as far from f32 as stated") {
  Session session({.backend = Backend::Native}, {.memory_only = true});
  check_all(
      [&](const Graph& graph, const auto& inputs, const auto& weights) {
        auto quantised = std::make_unique<Graph>();
        quantise_linears(graph, *quantised);
        return Network(session, "a golden case", std::move(quantised), weights).run(inputs);
      },
      1.2);
}

TEST_CASE("networks with wide linear layers in f8e4m3 on a GPU are as far from f32 as stated") {
  std::string why;
  auto devices = cuda::devices(&why);
  if (devices.empty()) {
    MESSAGE("skipped: no CUDA device (" << why << ")");
    return;
  }
  if (!devices[0].has_fp8()) {
    MESSAGE("skipped: " << devices[0].name << " has no fp8 units");
    return;
  }
  Session session({.backend = Backend::Native, .device = {.kind = DeviceChoice::Kind::Cuda}}, {.memory_only = true});
  check_all(
      [&](const Graph& graph, const auto& inputs, const auto& weights) {
        auto copy = std::make_unique<Graph>();
        copy_graph(graph, *copy);
        return Network(session, "a golden case", std::move(copy), weights, {}, kWidth).run(inputs);
      },
      1.5);  // more layers are joined there, and wide enough then
}
