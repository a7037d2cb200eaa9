// One step of U-Nets and one decoding, at real size with random weights, and the floor under it: what the products of that step
// would take at the rates that oneDNN reaches alone on the same shapes, measured in between.
//   model_bench [sd15] [sdxl] [vae] [--size 512] [--dtype f32|bf16] [--threads N] [--rounds N] [--steps] [--quick]
// --steps lists the slowest steps; --quick is one round of SD1.5 at 256 x 256. Without a model's name all three run.
#include <fmt/format.h>

#include <cstdio>
#include <fstream>
#include <optional>
#include <set>

#include "backends/cpu/calls/conv.h"
#include "backends/cpu/calls/linear.h"
#include "backends/cpu/plan.h"
#include "bench_tools.h"
#include "graph/interpreter.h"
#include "graph/ops.h"
#include "models/unet.h"
#include "models/vae_image.h"
#include "onednn.h"

using namespace sinter;
using namespace sinter::cpu;

namespace {

struct Options {
  std::set<std::string> models;
  int64_t size = 512;
  DType dtype = DType::f32;
  int threads = 0, rounds = 5;
  bool list_steps = false;
};

/// Weights of any shape: all are views of one block of random numbers, as if mapped from a file; those of norms are one.
class RandomWeights {
 public:
  explicit RandomWeights(const Graph& graph) {
    int64_t most = 0;
    for (const WeightUse& use : weights_of(graph)) {
      std::vector<int64_t> shape;
      for (const Dim& dim : use.type.shape) shape.push_back(dim.constant());
      most = std::max(most, element_count(std::span<const int64_t>(shape)));
      bytes_ += element_count(std::span<const int64_t>(shape)) * byte_size(use.type.dtype);
      uses_[use.name] = {use.type.dtype, std::move(shape)};
    }
    Tensor random(DType::f32, {most});
    uint32_t state = 1;
    for (float& x : random.f32()) {
      state = state * 1664525 + 1013904223;
      x = float(int32_t(state)) * 0x1p-31f * 0.04f;
    }
    Tensor ones(DType::f32, {1 << 16});
    std::fill(ones.f32().begin(), ones.f32().end(), 1.0f);
    for (const auto& [weight, use] : uses_)
      if (!random_.contains(use.type)) random_[use.type] = random.to(use.type), ones_[use.type] = ones.to(use.type);
  }
  Tensor operator()(const std::string& name) const {
    const Use& use = uses_.at(name);
    bool norm = use.shape.size() == 1 && name.ends_with("weight");
    const Tensor& from = norm ? ones_.at(use.type) : random_.at(use.type);
    return from.rows(0, element_count(std::span<const int64_t>(use.shape))).reshaped(use.shape);
  }
  int64_t bytes() const { return bytes_; }

 private:
  struct Use {
    DType type = DType::f32;
    std::vector<int64_t> shape;
  };
  std::map<std::string, Use> uses_;
  std::map<DType, Tensor> random_, ones_;
  int64_t bytes_ = 0;
};

/// What a launch computes.
struct Work {
  std::string shape;
  double flops = 0, bytes = 0;
  std::optional<ConvShape> conv;
  std::optional<LinearShape> linear;
  std::string fused{};  ///< "pre", "+": what is computed on the way
};

struct Describe {
  const Unit& unit;
  const Bindings& bindings;
  int64_t operator()(const Dim& dim) const { return dim.value(bindings); }

  Work operator()(const RowStep& s) const {
    const RowKernel& kernel = unit.program.kernels[size_t(s.use.kernel)];
    Work work;
    int64_t columns = (*this)(s.use.columns), rows = 1;
    for (const Dim& dim : s.use.outer) rows *= (*this)(dim);
    int loads = 0;
    for (const KernelOperand& operand : kernel.operands) {
      bool column = operand.column == ColumnAccess::broadcast;
      work.bytes += double(rows * (column ? 1 : columns) * byte_size(operand.dtype));
      loads += !operand.written;
    }
    bool reduces = false;
    for (const KernelStep& step : kernel.body)
      reduces = reduces || step.kind == KernelStep::reduce_sum || step.kind == KernelStep::reduce_max;
    bool copies = kernel.body.size() == 2;
    work.shape = fmt::format("{} x {} of {}{}", rows, columns, loads, copies ? ", copy" : reduces ? ", reduces" : "");
    return work;
  }
  Work operator()(const LinearStep& s) const {
    LinearShape shape;
    shape.m = (*this)(s.m), shape.n = s.n * s.parts, shape.k = s.k, shape.a_stride = s.k;
    return {fmt::format("{} x {} x {}", shape.m, shape.n, shape.k), linear_flops(shape), 0, {}, shape, s.epilogue ? " +" : ""};
  }
  Work operator()(const ConvStep& s) const {
    ConvShape shape;
    shape.n = (*this)(s.n), shape.h = (*this)(s.h), shape.w = (*this)(s.w), shape.c = s.c, shape.out_c = s.out_c;
    shape.kernel_h = int(s.kernel_h), shape.kernel_w = int(s.kernel_w), shape.stride = int(s.stride);
    shape.pad_top = int(s.top), shape.pad_left = int(s.left), shape.pad_bottom = int(s.bottom), shape.pad_right = int(s.right);
    return {fmt::format("{}x{}x{} {}->{} {}x{}/{}", shape.n, shape.h, shape.w, shape.c, shape.out_c, shape.kernel_h,
                        shape.kernel_w, shape.stride),
            conv_flops(shape),
            0,
            shape,
            {},
            std::string(s.prologue ? " pre" : "") + (s.epilogue ? " +" : "")};
  }
  Work operator()(const MatmulStep& s) const {
    LinearShape shape;
    shape.m = (*this)(s.m) * (*this)(s.batch), shape.n = (*this)(s.n), shape.k = (*this)(s.k), shape.a_stride = shape.k;
    return {fmt::format("{} x {} x {} computed", shape.m, shape.n, shape.k), linear_flops(shape), 0, {}, shape};
  }
  Work operator()(const AttentionStep& s) const {
    int64_t b = (*this)(s.b), h = (*this)(s.heads), q = (*this)(s.queries), k = (*this)(s.keys), d = (*this)(s.d);
    return {fmt::format("{} x {} heads, {} q, {} k, {}", b, h, q, k, d), 4.0 * double(b * h * q) * double(k * d), 0, {}, {}};
  }
  Work operator()(const GroupStatsStep& s) const {
    int64_t pixels = (*this)(s.n) * (*this)(s.pixels);
    return {fmt::format("{} x {}", pixels, s.channels), 0, double(pixels * s.channels * byte_size(s.type)), {}, {}};
  }
  Work operator()(const QuantiseStep& s) const { return {fmt::format("{} x {}", (*this)(s.m), s.k), 0, 0, {}, {}}; }
  Work operator()(const EmbeddingStep& s) const { return {fmt::format("{} x {}", (*this)(s.count), s.width), 0, 0, {}, {}}; }
  Work operator()(const CallStep&) const { return {}; }
};

/// The peer's best times of all shapes of a model.
class Floor {
 public:
  Floor(DType dtype, int threads) : dtype_(dtype) {
#ifdef SINTER_HAVE_ONEDNN
    omp_set_num_threads(threads);
#else
    (void)threads;
#endif
  }
  void add(const Work& work) {
    if (work.conv || work.linear) least_.try_emplace(work.shape, Entry{work, 1e30});
  }
  /// Each shape for a moment; the best of all rounds counts.
  void measure([[maybe_unused]] double budget) {
#ifdef SINTER_HAVE_ONEDNN
    auto type = dtype_ == DType::bf16 ? dnnl::memory::data_type::bf16 : dnnl::memory::data_type::f32;
    for (auto& [key, e] : least_) {
      const auto& w = e.work;
      double seconds =
          w.conv ? onednn_conv(*w.conv, type, budget) : onednn_linear(w.linear->m, w.linear->n, w.linear->k, type, budget);
      e.seconds = std::min(e.seconds, seconds);
      rate_ = std::max(rate_, w.flops / seconds);
    }
#endif
  }
  bool known() const { return rate_ > 0; }
  double rate() const { return rate_; }
  /// Seconds under which a step cannot be expected; nothing for memory-bound ones, which fusion should hide.
  double of(const Work& work) const {
    if (auto at = least_.find(work.shape); at != least_.end()) return at->second.seconds;
    return rate_ > 0 ? work.flops / rate_ : 0;
  }

 private:
  struct Entry {
    Work work;
    double seconds;
  };
  DType dtype_;
  std::map<std::string, Entry> least_;
  double rate_ = 0;  // the best product
};

struct Model {
  std::string name;
  double goal;  // ratio to the floor
  std::unique_ptr<Graph> graph = std::make_unique<Graph>();
  std::map<std::string, Tensor> inputs;
};

Tensor random_input(std::vector<int64_t> shape, double scale) {
  Tensor out(DType::f32, std::move(shape));
  uint32_t state = 7;
  for (float& x : out.f32()) {
    state = state * 1664525 + 1013904223;
    x = float(double(int32_t(state)) * 0x1p-31 * scale);
  }
  return out;
}

Model make_model(const std::string& name, const Options& options) {
  BuildOptions build;
  build.compute = options.dtype;
  DType stored = options.dtype == DType::bf16 ? DType::bf16 : DType::f16;
  build.storage = [stored](const std::string&) { return stored; };
  const int64_t latent = options.size / 8;
  Model m;
  if (name == "vae") {
    m.name = fmt::format("VAE decode {0}x{0}", options.size);
    m.goal = 1.2;
    build_vae_decoder(*m.graph, sd_vae_config(), Dim::symbol("batch"), Dim::symbol("height"), Dim::symbol("width"), build);
    m.inputs["z"] = random_input({1, 4, latent, latent}, 1.5);
    return m;
  }
  UnetConfig config = name == "sdxl" ? sdxl_unet_config() : sd15_unet_config();
  m.name = fmt::format("{0} {1}x{1}, batch 2", name == "sdxl" ? "SDXL" : "SD1.5", options.size);
  m.goal = 1.15;
  UnetSizes sizes{Dim::symbol("batch"), Dim::symbol("height"), Dim::symbol("width"), Dim::symbol("tokens")};
  build_unet(*m.graph, config, sizes, build);
  m.inputs["x"] = random_input({2, 4, latent, latent}, 1.5);
  m.inputs["timesteps"] = Tensor::of({2}, std::vector<float>{500, 500});
  m.inputs["context"] = random_input({2, 77, config.context_width}, 1.5);
  if (config.vector_width > 0) m.inputs["y"] = random_input({2, config.vector_width}, 1.5);
  return m;
}

Bindings bind(const Model& model) {
  Bindings bindings;
  for (Value input : model.graph->inputs()) {
    const auto& name = input->attrs.as<NameAttrs>().name;
    bind_shape(input.shape(), model.inputs.at(name).shape(), name, bindings);
  }
  return bindings;
}

/// Bytes of memory that this process holds now.
int64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t all = 0, resident = 0;
  file >> all >> resident;
  return resident * 4096;
}

double megabytes(int64_t bytes) { return double(bytes) * 1e-6; }

struct Group {
  Work work;
  const char* kind = "";
  std::string unit;
  int count = 0;
  double least = 0, floor = 0;
};

void list_steps(const std::map<std::string, Group>& groups) {
  std::vector<const Group*> sorted;
  for (const auto& [key, g] : groups) sorted.push_back(&g);
  std::sort(sorted.begin(), sorted.end(),
            [](const Group* a, const Group* b) { return a->least - a->floor > b->least - b->floor; });
  fmt::print("\n{:<12}{:<34}{:<30}{:>6}{:>10}{:>10}{:>9}{:>8}\n", "step", "shape", "block", "count", "ms", "floor ms", "GFLOP/s",
             "GB/s");
  for (size_t i = 0; i < std::min<size_t>(sorted.size(), 60); ++i) {
    const Group& g = *sorted[i];
    fmt::print("{:<12}{:<34}{:<30}{:>6}{:>10.2f}{:>10.2f}{:>9.0f}{:>8.1f}\n", g.kind, g.work.shape + g.work.fused, g.unit,
               g.count, g.least * 1e3, g.floor * 1e3, g.work.flops * g.count / g.least * 1e-9,
               g.work.bytes * g.count / g.least * 1e-9);
  }
}

/// Seconds of each launch at its best, and of all runs.
struct Times {
  std::vector<double> least, runs;

  void run(const cpu::Plan& plan) {
    least.resize(plan.launches().size(), 1e30);
    double begin = now(), last = begin;
    for (size_t i = 0; i < least.size(); ++i) {
      plan.launches()[i].run();
      double end = now();
      least[i] = std::min(least[i], end - last);
      last = end;
    }
    runs.push_back(last - begin);
  }
};

void report(const Options& options, const Model& model, const CompileReport& compiled, const Layout& layout,
            const cpu::Plan& plan, const Floor& floor, const Times& times) {
  std::map<std::string, Group> groups;
  std::map<std::string, double> by_kind, floor_by_kind;
  double sum = 0, bound = 0;
  for (size_t i = 0; i < plan.launches().size(); ++i) {
    const cpu::Plan::Launch& launch = plan.launches()[i];
    const double least = times.least[i];
    Work work = std::visit(Describe{*launch.unit, layout.bindings()}, launch.unit->program.steps[launch.step]);
    double least_possible = floor.of(work);
    Group& g = groups[fmt::format("{} {} {} {}", launch.unit->label, launch.step, launch.kind, work.shape)];
    g.work = work, g.kind = launch.kind, g.unit = launch.unit->label;
    ++g.count, g.least += least, g.floor += least_possible;
    by_kind[launch.kind] += least, floor_by_kind[launch.kind] += least_possible;
    sum += least, bound += least_possible;
  }
  std::vector<double> seconds = times.runs;
  std::sort(seconds.begin(), seconds.end());
  fmt::print("\n{}, {} arithmetic, {} launches\n", model.name, name(options.dtype), plan.launches().size());
  fmt::print("  one run      {:.3f} s at best, {:.3f} s median of {}; every step at its best {:.3f} s\n", seconds.front(),
             seconds[seconds.size() / 2], seconds.size(), sum);
  if (floor.known())
    fmt::print(
        "  floor        {:.3f} s at oneDNN's rates ({:.0f} GFLOP/s at most); steps at their best / floor {:.3f} (goal {:.2f}), "
        "best run / floor {:.3f}\n",
        bound, floor.rate() * 1e-9, sum / bound, model.goal, seconds.front() / bound);
  double calls = 0;
  for (const auto& [kind, s] : by_kind) {
    std::string beside =
        floor.known() && floor_by_kind[kind] > 0 ? fmt::format("{:.2f} of its floor", s / floor_by_kind[kind]) : "";
    fmt::print("  {:<12} {:>8.1f} ms {:>6.1f} %  {}\n", kind, s * 1e3, s / sum * 100, beside);
    if (kind == "linear" || kind == "conv" || kind == "attention") calls += s;
  }
  fmt::print("  inside calls {:.1f} % (goal 85)\n", calls / sum * 100);
  fmt::print("  compiling    {:.2f} s for {} programs of an empty cache\n", compiled.seconds, compiled.compiled);
  if (options.list_steps) list_steps(groups);
}

void bench(const std::string& name, const Options& options) {
  CacheOptions cache_options;
  cache_options.memory_only = true;
  Cache cache(cache_options);
  cpu::Engine engine(cache, options.threads);
  Model model = make_model(name, options);
  CompileReport compiled;
  CompiledGraph graph(engine, *model.graph, {}, compiled);
  Layout layout(graph, bind(model));
  cpu::BoundWeights weights(engine, graph);
  RandomWeights random(*model.graph);
  int64_t before = resident_bytes();
  double begin = now();
  weights.load(std::cref(random));
  double packing = now() - begin;
  cpu::Plan plan(engine, graph, layout, weights);
  Floor floor(options.dtype, engine.pool().threads());
  for (const cpu::Plan::Launch& launch : plan.launches())
    floor.add(std::visit(Describe{*launch.unit, layout.bindings()}, launch.unit->program.steps[launch.step]));

  begin = now();
  plan.run(model.inputs);
  double first = now() - begin;
  int64_t held = resident_bytes() - before, planned = weights.bytes() + layout.bytes();
  Times times;
  for (int i = 0; i < options.rounds; ++i) {
    times.run(plan);
    floor.measure(0.1);
  }
  report(options, model, compiled, layout, plan, floor, times);
  fmt::print("  weights      {:.0f} MB packed from {:.0f} MB in {:.2f} s, {:.1f} GB/s\n", megabytes(weights.bytes()),
             megabytes(random.bytes()), packing, double(random.bytes()) / packing * 1e-9);
  fmt::print("  arena        {:.0f} MB; the first run took {:.2f} s\n", megabytes(layout.bytes()), first);
  fmt::print("  memory       {:.0f} MB planned, {:.0f} MB held after the first run: {:.3f}\n", megabytes(planned),
             megabytes(held), double(held) / double(planned));
  std::fflush(stdout);
}

Options parse(int argc, char** argv) {
  Options o;
  auto usage = [&](const std::string& what) {
    fail(Code::InvalidArgument,
         "{}; model_bench [sd15] [sdxl] [vae] [--size N] [--dtype f32|bf16] [--threads N] [--rounds N] [--steps] [--quick]",
         what);
  };
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    auto value = [&] {
      if (++i == argc) usage(word + " needs a value");
      return std::string(argv[i]);
    };
    auto number = [&] {
      std::string text = value();
      int n = std::atoi(text.c_str());
      if (n <= 0) usage(word + " needs a number above 0, not " + text);
      return n;
    };
    if (word == "sd15" || word == "sdxl" || word == "vae") {
      o.models.insert(word);
    } else if (word == "--size") {
      o.size = number();
    } else if (word == "--threads") {
      o.threads = number();
    } else if (word == "--rounds") {
      o.rounds = number();
    } else if (word == "--steps") {
      o.list_steps = true;
    } else if (word == "--quick") {
      o.models = {"sd15"}, o.size = 256, o.rounds = 1;
    } else if (word == "--dtype") {
      auto type = parse_dtype(value());
      if (type != DType::f32 && type != DType::bf16) usage("--dtype is f32 or bf16");
      o.dtype = *type;
    } else {
      usage("unknown option " + word);
    }
  }
  if (o.models.empty()) o.models = {"sd15", "sdxl", "vae"};
  return o;
}

}  // namespace

int main(int argc, char** argv) try {
  const char* level = std::getenv("SINTER_CPU_TARGET");
  if (level && std::string(level) == "avx2") setenv("DNNL_MAX_CPU_ISA", "AVX2", 1);
  Options options = parse(argc, argv);
  const int threads = options.threads ? options.threads : available_cores();
  own_clock() = threads == 1;
  fmt::print("{}, {}, {} threads{}\n", host_cpu().model, host_target().text(), threads,
             own_clock() ? ", by the thread's own clock" : "");
#ifndef SINTER_HAVE_ONEDNN
  fmt::print("skipped: the floor (oneDNN: libdnnl-dev was not found when this was built)\n");
#endif
  for (const std::string& name : options.models) bench(name, options);
} catch (const Error& error) {
  fmt::print(stderr, "{}\n", error.what());
  return 1;
}
