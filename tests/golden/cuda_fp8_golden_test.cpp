// What f8e4m3 linear layers and attention cost in exactness: on the CPU by doing in the graph what the GPU does in its kernels,
// and on a GPU.
#include <cmath>
#include <random>

#include "compiler/lowering/fp8_attention.h"
#include "compiler/lowering/lowered_ops.h"
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

Value wide(Value x) { return cast(x, DType::f32); }

/// Attention as the GPU's kernel does it: probabilities are rounded to f8e4m3 before they are divided by their sum, and so is the
/// result.
Value played_attention(const Node& n, std::span<const Value> in) {
  Value unit = reshape(in[3], {1, 1, 1, 1}), q = wide(in[0]) * unit, k = wide(in[1]) * unit;
  Value scores = matmul(transpose(q, {0, 2, 1, 3}), transpose(k, {0, 2, 3, 1})) * n.attrs.as<AttentionAttrs>().scale;
  Value powers = exp(scores - reduce_max(scores, {-1}));
  Value sum = matmul(wide(cast(powers * 256.0, DType::f8e4m3)), transpose(wide(in[2]), {0, 2, 1, 3}));
  return cast(transpose(sum / (reduce_sum(powers, {-1}) * 256.0), {0, 2, 1, 3}), DType::f8e4m3);
}

struct Played {
  bool linears = true, attention = false;
};

/// The graph with what quantised that lowering makes in f8e4m3.
void play_fp8(const Graph& source, Graph& to, Played played) {
  std::map<const Function*, std::shared_ptr<const Function>> functions;
  Graph rewritten;
  if (played.attention) use_fp8_attention(source, rewritten, 1);
  copy_graph(played.attention ? rewritten : source, to, {}, [&](const Node& n, std::span<const Value> in, Graph& graph) -> Value {
    if (n.op == &call_op) {
      CallAttrs attrs = n.attrs.as<CallAttrs>();
      auto& mapped = functions[attrs.function.get()];
      if (!mapped) {
        auto made = std::make_shared<Function>();
        made->name = attrs.function->name;
        play_fp8(attrs.function->graph, made->graph, played);
        mapped = made;
      }
      attrs.function = mapped;
      return graph.add(call_op, {in.begin(), in.end()}, Attrs::of(attrs));
    }
    if (n.op == &fp8_attention_op) return played_attention(n, in);
    auto fits = [](const Dim& width) { return width.constant() >= kWidth && width.constant() % 16 == 0; };
    if (!played.linears || n.op != &linear_op || in[0].rank() < 3 || !fits(in[0].dim(-1)) || !fits(n.type.shape.back()))
      return {};
    return cast(linear(quantised(in[0]), quantised(in[1])), DType::bf16);
  });
}

/// Networks with golden outputs, and how far from them they were measured to be with quantised layers played by the CPU. The
/// errors of many layers add up: one alone has 3.7e-2, a network of tiny layers in bf16 2e-2 and less.
struct Case {
  std::string prefix;
  double linears, attention = 0, both = 0;  // 0: it has no attention that can
};
struct Subject {
  std::string checkpoint, file;
  std::vector<Case> cases;
  std::vector<std::string> inputs;
};
const Subject kSubjects[] = {
    {"tiny_sdxl", "sdxl_forward", {{"unet/0/", 9.4e-2}, {"unet/1/", 10.2e-2}}, {"x", "timesteps", "context", "y"}},
    {"tiny_flux_dev",
     "flux_forward",
     {{"transformer/0/", 5.8e-2, 1.25e-2, 5.8e-2}},
     {"x", "timestep", "context", "y", "guidance"}},
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
void check_all(const GraphRunner& run, double margin, double Case::*figure) {
  auto folder = golden_folder();
  if (!folder) {
    MESSAGE("skipped: golden data not found");
    return;
  }
  for (const Subject& subject : kSubjects) {
    if (std::none_of(subject.cases.begin(), subject.cases.end(), [&](const Case& c) { return c.*figure > 0; })) continue;
    CAPTURE(subject.checkpoint);
    std::string root = folder->string();
    Weights weights = open_component(root + "/checkpoints/" + subject.checkpoint + ".safetensors", Component::Denoiser);
    GoldenFile file(root + "/" + subject.file + ".safetensors");
    Graph graph;
    build(subject, weights, graph);
    for (const Case& one : subject.cases) {
      const std::string& prefix = one.prefix;
      const double measured = one.*figure;
      if (measured == 0) continue;
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

/// The first CUDA device, where it can do that; else none, said.
bool has_device(bool attention) {
  std::string why;
  auto devices = cuda::devices(&why);
  if (devices.empty()) {
    MESSAGE("skipped: no CUDA device (" << why << ")");
    return false;
  }
  if (attention ? devices[0].has_fp8_attention() : devices[0].has_fp8()) return true;
  MESSAGE("skipped: " << devices[0].name << " has no fp8 " << (attention ? "attention" : "units"));
  return false;
}

GraphRunner player(Session& session, Played played) {
  return [&session, played](const Graph& graph, const auto& inputs, const auto& weights) {
    auto quantised = std::make_unique<Graph>();
    play_fp8(graph, *quantised, played);
    return Network(session, "a golden case", std::move(quantised), weights).run(inputs);
  };
}
GraphRunner gpu_runner(Session& session, Played played) {
  return session_runner(session, played.linears ? kWidth : 0, played.attention ? 1 : 0);
}
SessionOptions gpu_session() { return {.backend = Backend::Native, .device = {.kind = DeviceChoice::Kind::Cuda}}; }

/// Attention of two normalised heads over 1024 random tokens.
struct LoneAttention {
  Graph graph, exact;
  std::map<std::string, Tensor> inputs, weights;

  LoneAttention() {
    build(graph, DType::bf16), build(exact, DType::f32);
    std::mt19937 random(5);
    auto normal = [&](std::vector<int64_t> shape, float mean, float spread) {
      Tensor t(DType::f32, std::move(shape));
      for (float& value : t.f32()) value = std::normal_distribution<float>(mean, spread)(random);
      return t;
    };
    for (const char* name : {"q", "k", "v"}) inputs[name] = normal({1, 1024, 2, 128}, 0, 3);
    for (const char* name : {"q_norm", "k_norm"}) weights[name] = normal({128}, 1, 0.2f);
  }
  static void build(Graph& g, DType type) {
    auto input = [&](const char* name) { return cast(cast(g.input(name, {DType::f32, {1, 1024, 2, 128}}), DType::bf16), type); };
    auto norm = [&](const char* name, const char* weight) {
      return rms_norm(input(name), 1e-6) * cast(g.weight(weight, {DType::f32, {128}}), type);
    };
    Value q = norm("q", "q_norm"), k = norm("k", "k_norm");
    g.output("y", cast(attention(q, k, input("v"), {.scale = 1 / std::sqrt(128.0)}), DType::f32));
  }
  double error(const GraphRunner& run) const {
    auto weight = [&](const std::string& name) { return weights.at(name); };
    Tensor expected = interpreter_runner()(exact, inputs, weight).at(0);
    return relative_error(run(graph, inputs, weight).at(0), expected);
  }
};

/// Scores of about 1 are off by the roundings of q and k together, and so, relatively, are their powers; then come the roundings
/// of probabilities, of v and of the result. Each is 2.6 %, and they are independent: sqrt(5) * 2.6 %.
constexpr double kLoneAttentionError = 0.058;

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
  check_all(player(session, {}), 1.2, &Case::linears);
}

TEST_CASE("attention in f8e4m3, played by the CPU, is off by what its five roundings give") {
  Session session({.backend = Backend::Native}, {.memory_only = true});
  double error = LoneAttention().error(player(session, {.linears = false, .attention = true}));
  MESSAGE("error " << error);
  CHECK(error == doctest::Approx(kLoneAttentionError).epsilon(0.15));
}

TEST_CASE(
    "networks with attention, or linear layers and attention, in f8e4m3, played by the CPU, are as far from f32 as stated") {
  Session session({.backend = Backend::Native}, {.memory_only = true});
  check_all(player(session, {.linears = false, .attention = true}), 1.2, &Case::attention);
  check_all(player(session, {.attention = true}), 1.2, &Case::both);
}

TEST_CASE("networks with wide linear layers in f8e4m3 on a GPU are as far from f32 as stated") {
  if (!has_device(false)) return;
  Session session(gpu_session(), {.memory_only = true});
  check_all(gpu_runner(session, {}), 1.5, &Case::linears);  // more layers are joined there, and wide enough then
}

TEST_CASE("attention in f8e4m3 on a GPU is off by what its five roundings give") {
  if (!has_device(true)) return;
  Session session(gpu_session(), {.memory_only = true});
  if (const auto& gpu = dynamic_cast<cuda::Engine&>(session.engine()); !gpu.why_no_fp8_attention().empty()) {
    MESSAGE("skipped: " << gpu.why_no_fp8_attention());
    return;
  }
  double error = LoneAttention().error(gpu_runner(session, {.linears = false, .attention = true}));
  MESSAGE("error " << error);
  CHECK(error == doctest::Approx(kLoneAttentionError).epsilon(0.15));
}

TEST_CASE("networks with attention, or linear layers and attention, in f8e4m3 on a GPU are as far from f32 as stated") {
  if (!has_device(true)) return;
  Session session(gpu_session(), {.memory_only = true});
  check_all(gpu_runner(session, {.linears = false, .attention = true}), 1.5, &Case::attention);
  check_all(gpu_runner(session, {.attention = true}), 1.5, &Case::both);
}
