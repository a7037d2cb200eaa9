// One step of U-Nets and FLUX, and one decoding, on a CUDA device at real size with random weights made there.
//   cuda_model_bench [sdxl] [sd15] [flux] [vae] [--dtype bf16|f16|f32|tf32|fp8] [--size N] [--json FILE]
//     --attention-dtype fp8   self-attention that can multiplies in f8e4m3
//     --against DTYPE the first step in another type too, untimed, and how far apart the two are
//     --tune          time the vendors' candidates
//     --launched      launch by launch, as in the modes without capture
//     --first-only    stop after the first step, and the first one at a second size
//     --seconds N     of steps without a pause (5)
//     --launches      list the slowest launches
//     --without       how much shorter a step is without each kind of launch, and without each of one shape
//     --cold          keep nothing in the cache on disk
//     --spans FILE    what the first steps' time goes to, each part; for chrome://tracing and its like
//     --budget GB     stream blocks' weights from the host's memory until all weights fit into it (0: as many as can be)
//     --whole         compute in every step what a picture computes once
// How each figure is measured: bench/README.md. --json appends them to FILE, one object a line.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "backends/cuda/plan.h"
#include "base/spans.h"
#include "bench_tools.h"
#include "compiler/lowering/fp8_attention.h"
#include "cuda_models.h"
#include "device_state.h"
#include "kernel_times.h"
#include "planner/residency.h"
#include "process_start.h"

using namespace sinter;

namespace {

struct Options {
  std::set<std::string> models;
  std::string dtype_name = "bf16", against, json, spans;
  DType dtype = DType::bf16;
  int64_t size = 0;
  double seconds = 5;
  bool tune = false, launched = false, first_only = false, launches = false, without = false, cold = false, whole = false;
  bool tf32 = false;
  bool fp8 = false;  // with bf16: wide linear layers of denoisers multiply in f8e4m3
  bool fp8_attention = false;
  double budget = -1;  // of weights, in GB
  std::string mode() const { return budget >= 0 ? "streamed" : launched ? "launched" : tune ? "tuned" : "default"; }
};

/// A compiled graph with random weights.
struct Network {
  Network(cuda::Engine& engine, const Graph& graph, const CompileOptions& options, CompileReport& report, double budget = -1)
      : compiled(engine, graph, options, report), weights(engine, compiled) {
    if (budget >= 0) {
      const WeightSizes sizes = weights.sizes();
      weights.stream(choose_streamed(sizes, int64_t(budget * 1e9)).value_or(least_resident(sizes)));
    }
    const Span span("random weights");
    weights.fill_random(1);
  }
  CompiledGraph compiled;
  cuda::BoundWeights weights;
};

/// Milliseconds of each of `count` steps that are queued back to back, at most `ahead` of them waiting on the device. after_each
/// is called behind each, while the device works.
std::vector<double> time_steps(cuda::Engine& engine, cuda::Plan& plan, int count, int ahead,
                               const std::function<void(int)>& after_each = {}) {
  std::vector<std::unique_ptr<cuda::Event>> marks;
  auto mark = [&] {
    marks.push_back(std::make_unique<cuda::Event>(engine.context(), cuda::Event::Timing::Yes));
    marks.back()->record(engine.stream());
  };
  mark();
  for (int i = 0; i < count; ++i) {
    plan.submit();
    mark();
    if (i >= ahead) marks[size_t(i - ahead)]->synchronize();
    if (after_each) after_each(i);
  }
  marks.back()->synchronize();
  std::vector<double> times;
  for (size_t i = 1; i < marks.size(); ++i) times.push_back(marks[i]->milliseconds_since(*marks[i - 1]));
  return times;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  size_t half = values.size() / 2;
  return values.size() % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// Four groups of five after a rest each: the card is cool and at its full clock.
std::vector<double> burst_of(cuda::Engine& engine, cuda::Plan& plan) {
  std::vector<double> times;
  for (int group = 0; group < 4; ++group) {
    usleep(500'000);
    auto more = time_steps(engine, plan, 5, 16);
    times.insert(times.end(), more.begin(), more.end());
  }
  return times;
}

struct Sustained {
  double ms;
  std::optional<DeviceState> state;  // what the card said of itself late in it
};

/// The mean of the second half of so many seconds of steps.
Sustained sustained_of(cuda::Engine& engine, cuda::Plan& plan, double about_ms, double seconds) {
  const int count = std::max(4, int(std::ceil(seconds * 1e3 / about_ms)));
  const DeviceMonitor monitor(engine.context().device().pci);
  Sustained sustained{};
  auto times = time_steps(engine, plan, count, about_ms > 1 ? 4 : 64, [&](int i) {
    if (i == count * 3 / 4) sustained.state = monitor.state();
  });
  for (int i = count / 2; i < count; ++i) sustained.ms += times[size_t(i)];
  sustained.ms /= count - count / 2;
  return sustained;
}

/// What the host does for a step while the device has nothing else to do.
double host_ms_of(cuda::Engine& engine, cuda::Plan& plan) {
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    engine.stream().synchronize();
    double begin = now();
    plan.submit();
    best = std::min(best, now() - begin);
  }
  engine.stream().synchronize();
  return best * 1e3;
}

/// By the clock on the wall, inputs and outputs copied.
double wall_ms_of(cuda::Plan& plan, const std::map<std::string, Tensor>& inputs) {
  std::vector<double> times;
  for (int i = 0; i < 5; ++i) {
    double begin = now();
    plan.run(inputs);
    times.push_back((now() - begin) * 1e3);
  }
  return median(times);
}

bool is_finite(const Tensor& t) {
  Tensor values = t.to(DType::f32);
  return std::all_of(values.f32().begin(), values.f32().end(), [](float x) { return std::isfinite(x); });
}

struct Group {
  int count = 0;
  double seconds = 0;
};

/// By `key`, the slowest first.
template <class Key>
std::vector<std::pair<std::string, Group>> grouped(const std::vector<cuda::Launch>& launches, const Key& key) {
  std::map<std::string, Group> groups;
  for (const cuda::Launch& l : launches) {
    Group& g = groups[key(l)];
    ++g.count, g.seconds += l.seconds;
  }
  std::vector<std::pair<std::string, Group>> sorted(groups.begin(), groups.end());
  std::sort(sorted.begin(), sorted.end(), [](auto& a, auto& b) { return a.second.seconds > b.second.seconds; });
  return sorted;
}

/// Between events, so with the gaps before each.
void print_launches(cuda::Engine& engine, cuda::Plan& plan, bool each) {
  for (cuda::Launch& l : plan.launches()) l.seconds = 0;
  plan.measure(true);
  plan.submit();
  plan.submit();
  plan.measure(false);
  engine.stream().synchronize();
  double sum = 0;
  for (cuda::Launch& l : plan.launches()) l.seconds /= 2, sum += l.seconds;
  auto print = [&](const std::string& text, const Group& g) {
    fmt::print("    {:>8.3f} ms {:>5.1f} %  {:>4} x {:>8.1f} us  {}\n", g.seconds * 1e3, g.seconds / sum * 100, g.count,
               g.seconds / g.count * 1e6, text);
  };
  for (const auto& [kind, g] : grouped(plan.launches(), [](const cuda::Launch& l) { return std::string(l.kind); }))
    print(kind, g);
  if (!each) return;
  fmt::print("\n");
  auto all = grouped(plan.launches(), [](const cuda::Launch& l) { return fmt::format("{:<16} {}", l.kind, l.detail); });
  for (size_t i = 0; i < std::min<size_t>(all.size(), 40); ++i) print(all[i].first, all[i].second);
}

/// The best of three groups of ten steps, of the launches that `keep` says.
template <class Keep>
double step_with(cuda::Engine& engine, const std::vector<cuda::Launch>& launches, const Keep& keep) {
  cuda::Capture capture(engine.stream());
  for (const cuda::Launch& l : launches)
    if (keep(l)) l.run();
  cuda::CapturedGraph graph = capture.finish();
  constexpr int kSteps = 10;
  cuda::Event begin(engine.context(), cuda::Event::Timing::Yes), end(engine.context(), cuda::Event::Timing::Yes);
  graph.launch(engine.stream());
  double best = 1e30;
  for (int group = 0; group < 3; ++group) {
    begin.record(engine.stream());
    for (int i = 0; i < kSteps; ++i) graph.launch(engine.stream());
    end.record(engine.stream());
    end.synchronize();
    best = std::min(best, end.milliseconds_since(begin) / kSteps);
  }
  return best;
}

/// What launches cost among the others: a launch timed alone hides nothing of its beginning and end behind its neighbours.
void print_without(cuda::Engine& engine, cuda::Plan& plan) {
  const std::vector<cuda::Launch>& launches = plan.launches();
  const double whole = step_with(engine, launches, [](const cuda::Launch&) { return true; });
  auto print = [&](const auto& key) {
    std::vector<std::pair<double, std::string>> lines;
    for (const auto& [name, group] : grouped(launches, key)) {
      const double saved = whole - step_with(engine, launches, [&](const cuda::Launch& l) { return key(l) != name; });
      lines.push_back({saved, fmt::format("{:>8.3f} ms {:>5.1f} %  {:>4} x {:>8.1f} us  {}", saved, saved / whole * 100,
                                          group.count, saved / group.count * 1e3, name)});
    }
    std::sort(lines.rbegin(), lines.rend());
    fmt::print("\n");
    for (size_t i = 0; i < std::min<size_t>(lines.size(), 70); ++i) fmt::print("    {}\n", lines[i].second);
  };
  fmt::print("\n    a step of {:.3f} ms is shorter without\n", whole);
  print([](const cuda::Launch& l) { return std::string(l.kind); });
  print([](const cuda::Launch& l) { return fmt::format("{:<16} {}", l.kind, l.detail); });
}

/// What the time since record_spans() went to, by kind, and each part of it where `path` is not empty.
void print_spans(const char* what, const std::string& path) {
  const std::vector<SpanRecord> spans = recorded_spans();
  fmt::print("\n    {}, what it went to: covered, longest, sum of all threads\n", what);
  for (const SpanSum& s : sums_of(spans))
    if (s.covered >= 0.001)
      fmt::print("    {:>8.3f} s {:>8.3f} {:>8.3f}  {:>4} x  {}\n", s.covered, s.longest, s.seconds, s.count, s.kind);
  for (const SpanRecord& s : spans)
    append_line(path, nlohmann::json{{"name", s.kind + (": " + s.detail)},
                                     {"cat", what},
                                     {"ph", "X"},
                                     {"pid", 1},
                                     {"tid", s.thread},
                                     {"ts", s.begin * 1e6},
                                     {"dur", (s.end - s.begin) * 1e6}}
                          .dump());
}

/// What was compiled or planned since the cache was made, and kept.
struct Made {
  int programs = 0, plans = 0;
};
Made made(Cache& cache) {
  Made m;
  cache.flush();
  for (const CompileExplained& record : cache.explain()) {
    // How a call is made is chosen for one shape; a program serves all.
    ++(fact(record.facts, "choice").empty() ? m.programs : m.plans);
  }
  return m;
}

/// The first step at another size, in a process that has run one.
void second_size(cuda::Engine& engine, Network& network, const BenchParts& parts, const BenchModel& model,
                 std::map<std::string, Tensor> inputs, const std::string& spans, nlohmann::json& line) {
  Made before = made(engine.cache());
  inputs.erase(input_name(latent_input(*parts.step)));
  bool small = model.name == "sd15";
  Bindings sizes = at_size(*parts.step, model.sizes, small ? 576 : 1152, small ? 448 : 896);
  add_random_inputs(*parts.step, sizes, inputs);
  record_spans();
  double begin = now();
  Layout layout(network.compiled, sizes, parts.kept);
  cuda::Plan plan(engine, network.compiled, layout, network.weights);
  plan.run(inputs);
  line["second_size_s"] = now() - begin;
  print_spans("first step at a second size", spans);
  plan.run(inputs);
  line["second_size_later_s"] = wall_ms_of(plan, inputs) * 1e-3;
  Made after = made(engine.cache());
  line["second_size_compiles"] = after.programs - before.programs;
  line["second_size_plans"] = after.plans - before.plans;
}

void print_summary(const nlohmann::json& line) {
  auto number = [&](const char* key) { return line.contains(key) ? line[key].get<double>() : 0.0; };
  fmt::print("\n{} {} {} on {}: {} launches, {} of {} programs compiled{}\n", line["model"].get<std::string>(),
             line["dtype"].get<std::string>(), line["mode"].get<std::string>(), line["gpu"].get<std::string>(),
             number("launches"), number("compiles"), number("programs"), line["finite"].get<bool>() ? "" : "  NOT FINITE");
  fmt::print("  first step {:.2f} s after the start of the process; at a second size {:.3f} s, {} programs compiled\n",
             number("first_step_s"), number("second_size_s"), number("second_size_compiles"));
  if (line.contains("burst_ms"))
    fmt::print("  step {:.3f} ms burst (best {:.3f}), {:.3f} sustained, {:.3f} kernels, {:.3f} with copies; host {:.3f} ms\n",
               number("burst_ms"), number("burst_min_ms"), number("sustained_ms"), number("kernel_sum_ms"), number("wall_ms"),
               number("host_ms"));
  if (line.contains("card")) fmt::print("  sustained {}\n", line["card"].get<std::string>());
  if (line.contains("streamed_bytes"))
    fmt::print("  {} blocks streamed, {:.2f} GB a step, {:.1f} GB/s {}\n", number("streamed_blocks"),
               number("streamed_bytes") / 1e9, number("streamed_bytes") / 1e6 / number("sustained_ms"),
               line["streams_slowly"].get<std::string>());
  fmt::print("  memory {:.0f} MB in a step, {:.0f} planned; {:.0f} at most\n", number("step_bytes") / 1e6,
             number("planned_bytes") / 1e6, number("peak_bytes") / 1e6);
}

/// Checks that fp8 attention can be had where it is asked for.
CompileOptions compile_options(const cuda::Engine& engine, const Graph& step, const std::string& name, const Options& o) {
  CompileOptions options{.label = name};
  if (name == "vae") return options;
  if (o.fp8) options.fp8_width = kFp8Width;
  if (!o.fp8_attention) return options;
  options.fp8_keys = kFp8Keys;
  std::string why_not = engine.why_no_fp8_attention();
  if (why_not.empty()) why_not = why_no_fp8_attention(step, kFp8Keys);
  if (!why_not.empty()) fail(Code::Unsupported, "--attention-dtype fp8: {}: {}", name, why_not);
  return options;
}

/// Gives the first step's result.
Tensor bench(const std::string& name, const Options& o) {
  record_spans();
  CacheOptions cache_options = o.cold ? CacheOptions{.memory_only = true} : CacheOptions::from_environment();
  Cache cache(cache_options);
  cuda::Engine engine(cache, 0, 0, {.tune = o.tune, .replay = !o.launched, .allow_tf32 = o.tf32, .many_sizes = true});
  const double context = seconds_since_process_start();
  engine.kernels().begin_kernel("elements__normals");  // for random weights, which programs do not need
  const int64_t free_before = engine.context().free_bytes();
  BenchModel model = make_bench_model(name, o.dtype, o.size, o.size);
  BenchParts parts;
  if (name == "vae" || o.whole)
    parts.step = std::move(model.graph);
  else
    parts = cut(model);

  CompileOptions options = compile_options(engine, *parts.step, name, o), once = options;
  once.label = name + ", once";
  CompileReport report;
  std::map<std::string, Tensor> inputs;
  double prelude_ms = 0;
  // All are compiled before any runs, as the program does.
  Network network(engine, *parts.step, options, report, o.budget);
  std::vector<std::unique_ptr<Network>> preludes;
  for (auto& prelude : parts.preludes) preludes.push_back(std::make_unique<Network>(engine, *prelude, once, report));
  for (size_t p = 0; p < preludes.size(); ++p) {
    const auto& prelude = parts.preludes[p];
    add_random_inputs(*prelude, model.sizes, inputs);
    Layout layout(preludes[p]->compiled, model.sizes);
    cuda::Plan plan(engine, preludes[p]->compiled, layout, preludes[p]->weights);
    double begin = now();
    auto results = plan.run(inputs);
    prelude_ms += (now() - begin) * 1e3;
    for (size_t i = 0; i < results.size(); ++i) inputs[prelude->outputs()[i].name] = results[i];
  }
  preludes.clear();
  add_random_inputs(*parts.step, model.sizes, inputs);
  Layout layout(network.compiled, model.sizes, parts.kept);
  cuda::Plan plan(engine, network.compiled, layout, network.weights);
  std::vector<Tensor> out = [&] {
    const Span span("first run");
    return plan.run(inputs);
  }();
  const double first = seconds_since_process_start();
  print_spans("first step", o.spans);

  nlohmann::json line = {{"what", o.first_only ? "first" : "step"},
                         {"model", name},
                         {"dtype", o.dtype_name + (options.fp8_keys > 0 ? "+attention" : "")},
                         {"mode", o.mode()},
                         {"shape", fmt::format("{}x{}x{}", model.batch, model.width, model.height)},
                         {"gpu", engine.context().device().name},
                         {"driver", engine.context().device().driver_version},
                         {"finite", is_finite(out[0])},
                         {"launches", plan.launches().size()},
                         {"programs", report.needed},
                         {"compiles", report.compiled},
                         {"compile_s", report.seconds},
                         {"context_s", context},
                         {"prelude_first_ms", prelude_ms}};
  if (o.models.size() == 1) line["first_step_s"] = first;  // a second model in one process starts late
  engine.note_memory();
  line["peak_bytes"] = engine.taken_bytes();
  if (!o.first_only) {
    plan.run(inputs);
    plan.run(inputs);
    auto times = burst_of(engine, plan);
    line["burst_ms"] = median(times), line["burst_min_ms"] = *std::min_element(times.begin(), times.end());
    const Sustained sustained = sustained_of(engine, plan, median(times), o.seconds);
    line["sustained_ms"] = sustained.ms;
    if (sustained.state) line["card"] = sustained.state->text();
    line["host_ms"] = host_ms_of(engine, plan);
    line["wall_ms"] = wall_ms_of(plan, inputs);
  }
  if (const cuda::WeightStream* stream = network.weights.stream()) {
    line["streamed_blocks"] = stream->count(), line["streamed_bytes"] = stream->bytes();
    line["streams_slowly"] = network.weights.why_streams_slowly();
  }
  line["step_bytes"] = free_before - engine.context().free_bytes();
  line["planned_bytes"] = network.weights.bytes() + layout.bytes() + layout.kept_bytes() + engine.shared_bytes();
  if (!o.whole) second_size(engine, network, parts, model, inputs, o.spans, line);
  if (!o.first_only) {
    print_launches(engine, plan, o.launches);
    if (o.without) print_without(engine, plan);
    KernelTimer timer;
    auto kernels = timer.measure([&] {
      plan.submit();
      engine.stream().synchronize();
    });
    if (kernels)
      line["kernel_sum_ms"] = kernels->seconds * 1e3, line["kernels"] = kernels->count;
    else
      fmt::print("no sum of kernels: {}\n", timer.why_not());
  }
  print_summary(line);
  std::fflush(stdout);
  append_line(o.json, line.dump());
  return out[0];
}

void set_dtype(Options& o, const std::string& text) {
  o.dtype_name = text;
  o.fp8 = text == "fp8", o.tf32 = text == "tf32";
  auto dtype = parse_dtype(o.fp8 ? "bf16" : o.tf32 ? "f32" : text);
  if (!dtype) fail(Code::InvalidArgument, "--dtype {}: there are bf16, f16, f32, tf32 (f32 with rounded factors) and fp8", text);
  o.dtype = *dtype;
}

void set_attention(Options& o, const std::string& text) {
  o.fp8_attention = text == "fp8";
  if (!o.fp8_attention && text != "auto") fail(Code::InvalidArgument, "--attention-dtype {}: there are auto and fp8", text);
}

void bench_against(const std::string& name, const Options& o) {
  if (o.against.empty()) return void(bench(name, o));
  Options other{.size = o.size};
  set_dtype(other, o.against);
  other.first_only = true, other.cold = o.cold;
  const Tensor expected = bench(name, other);
  fmt::print("  the first step differs by {:.2e} of its size from that in {}\n", relative_error(bench(name, o), expected),
             o.against);
}

Options parse(int argc, char** argv) {
  Options o;
  std::map<std::string, bool*> flags{{"--tune", &o.tune},         {"--launched", &o.launched}, {"--first-only", &o.first_only},
                                     {"--launches", &o.launches}, {"--without", &o.without},   {"--cold", &o.cold},
                                     {"--whole", &o.whole}};
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    auto value = [&] {
      if (++i == argc) fail(Code::InvalidArgument, "{} needs a value", word);
      return std::string(argv[i]);
    };
    if (word == "sdxl" || word == "sd15" || word == "flux" || word == "vae")
      o.models.insert(word);
    else if (auto flag = flags.find(word); flag != flags.end())
      *flag->second = true;
    else if (word == "--dtype")
      set_dtype(o, value());
    else if (word == "--against")
      o.against = value();
    else if (word == "--attention-dtype")
      set_attention(o, value());
    else if (word == "--size")
      o.size = std::atoi(value().c_str());
    else if (word == "--budget")
      o.budget = std::atof(value().c_str());
    else if (word == "--seconds")
      o.seconds = std::atof(value().c_str());
    else if (word == "--spans")
      o.spans = value();
    else if (word == "--json")
      o.json = value();
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
    if (std::string why; argc == 1 && cuda::devices(&why).empty()) {
      fmt::print("skipped: no CUDA device: {}\n", why);
      return 0;
    }
    for (const std::string& name : options.models) bench_against(name, options);
    return 0;
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return 1;
  }
}
