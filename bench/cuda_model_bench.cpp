// One step of U-Nets and FLUX, and one decoding, on a CUDA device at real size with random weights made there.
//   cuda_model_bench [sdxl] [sd15] [flux] [vae] [--dtype bf16|f16|f32|fp8] [--size N] [--tune] [--vendor-only] [--runs N]
//     [--launches] [--cold] [--whole]
// Prints how soon the first step was done, the best burst of ten, the mean of a sustained run, the sum of its kernels, and
// memory.
// --vendor-only leaves all products to cuBLASLt. --launches lists the slowest; --cold keeps nothing in the cache on disk; --whole
// times with a step what a picture computes once.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <set>

#include "backends/cuda/plan.h"
#include "bench_tools.h"
#include "compiler/passes/hoist.h"
#include "graph/ops.h"
#include "models/flux.h"
#include "models/unet.h"
#include "models/vae_image.h"

using namespace sinter;

namespace {

struct Options {
  std::set<std::string> models;
  DType dtype = DType::bf16;
  int64_t width = 0, height = 0;
  int runs = 30;
  bool tune = false, vendor_only = false, launches = false, cold = false, whole = false, tf32 = false;
  bool fp8 = false;  // with bf16: wide linear layers of denoisers multiply in f8e4m3
};

struct Model {
  std::string name;
  std::unique_ptr<Graph> graph = std::make_unique<Graph>();
  Bindings sizes;
};

FluxConfig flux_dev() {
  FluxConfig c;
  c.width = 3072, c.in_channels = c.out_channels = 16, c.head_size = 128, c.mlp = 12288;
  c.context_width = 4096, c.vector_width = 768, c.double_blocks = 19, c.single_blocks = 38;
  c.guidance = true, c.axes = {16, 56, 56};
  return c;
}

Model make_model(const std::string& name, const Options& o) {
  Model m{name};
  BuildOptions build{.compute = o.dtype, .storage = {}};
  int64_t pixels = name == "sd15" ? 512 : 1024;
  Dim batch = Dim::symbol("batch"), height = Dim::symbol("height"), width = Dim::symbol("width"), text = Dim::symbol("text");
  auto bind = [&](const Dim& dim, int64_t value) {
    std::vector<SymbolId> symbols;
    dim.collect_symbols(symbols);
    m.sizes[symbols.at(0)] = value;
  };
  bind(height, (o.height ? o.height : pixels) / 8), bind(width, (o.width ? o.width : pixels) / 8);
  bind(batch, name == "sd15" || name == "sdxl" ? 2 : 1);
  if (name != "vae") bind(text, name == "flux" ? 512 : 77);
  if (name == "flux")
    build_flux(*m.graph, flux_dev(), {batch, height, width, text}, build);
  else if (name == "vae")
    build_vae_decoder(*m.graph, sd_vae_config(), batch, height, width, build);
  else
    build_unet(*m.graph, name == "sdxl" ? sdxl_unet_config() : sd15_unet_config(), {batch, height, width, text}, build);
  return m;
}

/// What runs in every step of a picture: the rest is computed once for its prompt and its timesteps.
void keep_step_only(Model& m) {
  std::set<std::string> steady;
  for (Value input : m.graph->inputs())
    if (const std::string& name = input->attrs.as<NameAttrs>().name; name != "x") steady.insert(name);
  m.graph = hoist(*m.graph, steady, "hoisted").step;
}

std::map<std::string, Tensor> random_inputs(const Model& m) {
  std::map<std::string, Tensor> inputs;
  uint32_t state = 7;
  for (Value input : m.graph->inputs()) {
    std::vector<int64_t> shape;
    for (const Dim& dim : input.shape()) shape.push_back(dim.value(m.sizes));
    Tensor t(DType::f32, shape);
    for (float& x : t.f32()) state = state * 1664525 + 1013904223, x = float(int32_t(state)) * 0x1p-31f;
    const std::string& name = input->attrs.as<NameAttrs>().name;
    if (name == "timesteps") std::fill(t.f32().begin(), t.f32().end(), 500.f);
    inputs[name] = t;
  }
  return inputs;
}

/// Milliseconds of one of `count` runs queued back to back.
double time_runs(cuda::Engine& engine, cuda::Plan& plan, int count) {
  cuda::Event begin(engine.context(), cuda::Event::Timing::Yes), end(engine.context(), cuda::Event::Timing::Yes);
  begin.record(engine.stream());
  for (int i = 0; i < count; ++i) plan.submit();
  end.record(engine.stream());
  end.synchronize();
  return end.milliseconds_since(begin) / count;
}

void list_launches(const std::vector<cuda::Launch>& launches, double total) {
  struct Group {
    int count = 0;
    double seconds = 0;
  };
  std::map<std::string, Group> groups;
  for (const cuda::Launch& l : launches) {
    Group& g = groups[fmt::format("{:<16} {}", l.kind, l.detail)];
    ++g.count, g.seconds += l.seconds;
  }
  std::vector<std::pair<std::string, Group>> sorted(groups.begin(), groups.end());
  std::sort(sorted.begin(), sorted.end(), [](auto& a, auto& b) { return a.second.seconds > b.second.seconds; });
  for (size_t i = 0; i < std::min<size_t>(sorted.size(), 40); ++i) {
    const auto& [text, g] = sorted[i];
    fmt::print("    {:>8.3f} ms {:>5.1f} %  {:>4} x {:>8.1f} us  {}\n", g.seconds * 1e3, g.seconds / total * 100, g.count,
               g.seconds / g.count * 1e6, text);
  }
}

void bench(const std::string& name, const Options& o) {
  double start = now();
  CacheOptions cache_options = o.cold ? CacheOptions{.memory_only = true} : CacheOptions::from_environment();
  Cache cache(cache_options);
  cuda::Engine engine(cache, 0, 0, {.tune = o.tune, .tile_products = !o.vendor_only, .allow_tf32 = o.tf32});
  double context = now() - start;
  int64_t free_before = engine.context().free_bytes();
  Model model = make_model(name, o);
  if (name != "vae" && !o.whole) keep_step_only(model);
  double begin = now();
  CompileReport report;
  CompiledGraph compiled(engine, *model.graph, {.fp8_width = o.fp8 && name != "vae" ? kFp8Width : 0, .label = name}, report);
  double compiling = now() - begin;
  begin = now();
  cuda::BoundWeights weights(engine, compiled);
  weights.fill_random(1);
  double filling = now() - begin;
  Layout layout(compiled, model.sizes);
  cuda::Plan plan(engine, compiled, layout, weights);
  begin = now();
  size_t count = plan.launches().size();
  double planning = now() - begin;
  auto inputs = random_inputs(model);
  std::vector<Tensor> out = plan.run(inputs);
  double first = now() - start;
  bool finite = true;
  for (float x : out[0].to(DType::f32).f32()) finite = finite && std::isfinite(x);

  fmt::print("\n{} {} on {}{}, {} launches, {} programs of which {} compiled{}\n", name, o.fp8 ? "fp8" : sinter::name(o.dtype),
             engine.context().device().name, o.tune ? ", tuned" : "", count, report.needed, report.compiled,
             finite ? "" : "  NOT FINITE");
  fmt::print("  first step done after {:.2f} s: context {:.2f}, compiling {:.2f}, random weights {:.2f}, plans {:.2f}\n", first,
             context, compiling, filling, planning);
  int64_t planned = weights.bytes() + layout.bytes() + engine.workspace().bytes();
  int64_t used = free_before - engine.context().free_bytes();
  time_runs(engine, plan, 3);
  double burst = 1e30;
  for (int i = 0; i < 3; ++i) burst = std::min(burst, time_runs(engine, plan, std::min(10, o.runs)));
  double sustained = time_runs(engine, plan, o.runs * 3);
  begin = now();
  plan.submit();
  double host = now() - begin;
  engine.stream().synchronize();
  for (cuda::Launch& l : plan.launches()) l.seconds = 0;
  plan.measure(true);
  plan.submit();
  plan.submit();
  double sum = 0;
  std::map<std::string, double> kinds;
  for (cuda::Launch& l : plan.launches()) l.seconds /= 2, sum += l.seconds, kinds[l.kind] += l.seconds;
  fmt::print("  step {:.3f} ms burst, {:.3f} ms sustained; launches one by one {:.3f} ms; host {:.3f} ms\n", burst, sustained,
             sum * 1e3, host * 1e3);
  for (const auto& [kind, seconds] : kinds)
    fmt::print("    {:<18} {:>9.3f} ms {:>5.1f} %\n", kind, seconds * 1e3, seconds / sum * 100);
  fmt::print("  memory {:.0f} MB planned, {:.0f} MB taken\n", double(planned) / 1e6, double(used) / 1e6);
  if (o.launches) list_launches(plan.launches(), sum);
  std::fflush(stdout);
}

void set_dtype(Options& o, const std::string& text) {
  o.fp8 = text == "fp8";
  auto dtype = parse_dtype(o.fp8 ? "bf16" : text);
  if (!dtype) fail(Code::InvalidArgument, "--dtype {}: there are bf16, f16, f32 and fp8", text);
  o.dtype = *dtype;
}

Options parse(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    auto value = [&] {
      if (++i == argc) fail(Code::InvalidArgument, "{} needs a value", word);
      return std::string(argv[i]);
    };
    if (word == "sdxl" || word == "sd15" || word == "flux" || word == "vae")
      o.models.insert(word);
    else if (word == "--dtype")
      set_dtype(o, value());
    else if (word == "--size")
      o.width = o.height = std::atoi(value().c_str());
    else if (word == "--runs")
      o.runs = std::max(1, std::atoi(value().c_str()));
    else if (word == "--vendor-only")
      o.vendor_only = true;
    else if (word == "--tune")
      o.tune = true;
    else if (word == "--tf32")
      o.tf32 = true;
    else if (word == "--launches")
      o.launches = true;
    else if (word == "--cold")
      o.cold = true;
    else if (word == "--whole")
      o.whole = true;
    else
      fail(Code::InvalidArgument, "{} is no option; see the top of bench/cuda_model_bench.cpp", word);
  }
  if (o.models.empty()) o.models = {"sd15", "sdxl", "flux", "vae"};
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    Options options = parse(argc, argv);
    for (const std::string& name : options.models) bench(name, options);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return 1;
  }
}
