#include "pipelines/network.h"

#include <algorithm>

#include "backends/cpu/engine.h"
#include "graph/interpreter.h"
#include "graph/ops.h"
#include "hardware/memory.h"

namespace sinter {

Backend parse_backend(const std::string& text) {
  if (text == "native" || text == "inductor") return Backend::Native;
  if (text == "eager") return Backend::Eager;
  if (text == "reference") return Backend::Reference;
  fail(Code::InvalidArgument, "there is no backend '{}'; there are native (inductor), eager and reference", text);
}

std::string_view name(Backend backend) {
  constexpr std::string_view kNames[] = {"native", "eager", "reference"};
  return kNames[int(backend)];
}

namespace {

std::unique_ptr<Engine> make_engine(const SessionOptions& options, Cache& cache) {
  if (options.device.kind == DeviceChoice::Kind::Cpu || options.backend == Backend::Reference)
    return std::make_unique<cpu::Engine>(cache, options.threads);
  return std::make_unique<cuda::Engine>(cache, options.threads, options.device.ordinal, options.cuda);
}

}  // namespace

Session::Session(SessionOptions options, CacheOptions cache)
    : options_(std::move(options)), cache_(std::move(cache)), engine_(make_engine(options_, cache_)) {}

int64_t Session::available_bytes() {
  auto* gpu = dynamic_cast<cuda::Engine*>(engine_.get());
  return gpu ? gpu->context().free_bytes() : available_memory_bytes();
}

int64_t Session::measured_peak_bytes() {
  auto* gpu = dynamic_cast<cuda::Engine*>(engine_.get());
  return gpu ? gpu->taken_bytes() : peak_memory_bytes();
}

Bindings sizes_of(const Graph& graph, const std::map<std::string, Tensor>& inputs) {
  Bindings bindings;
  for (Value input : graph.inputs()) {
    const auto& name = input->attrs.as<NameAttrs>().name;
    if (auto at = inputs.find(name); at != inputs.end()) bind_shape(input.shape(), at->second.shape(), name, bindings);
  }
  return bindings;
}

struct Network::Compiled {
  std::unique_ptr<Graph> specialised;  // when not dynamic
  Bindings sizes;                      // that it was specialised for
  std::unique_ptr<CompiledGraph> graph;
  std::unique_ptr<BoundWeights> weights;
  bool loaded = false;

  struct Bound {
    Bindings bindings;
    std::unique_ptr<Layout> layout;
    std::unique_ptr<Plan> plan;
  };
  std::vector<Bound> bound;  // least recently used first

  Bound& bind(const Bindings& bindings, const std::set<std::string>& kept_inputs) {
    constexpr size_t kKept = 8;
    auto at = std::find_if(bound.begin(), bound.end(), [&](const Bound& b) { return b.bindings == bindings; });
    if (at == bound.end()) {
      if (bound.size() == kKept) bound.erase(bound.begin());
      bound.push_back({bindings, std::make_unique<Layout>(*graph, bindings, kept_inputs), nullptr});
    } else {
      std::rotate(at, at + 1, bound.end());
    }
    return bound.back();
  }
};

Network::Network(Session& session, std::string label, std::unique_ptr<Graph> graph, WeightReader weights,
                 std::function<void(const std::string&)> done_with_weight, int64_t fp8_width, int64_t fp8_keys)
    : session_(session),
      label_(std::move(label)),
      graph_(std::move(graph)),
      weights_(std::move(weights)),
      done_(std::move(done_with_weight)),
      fp8_width_(fp8_width),
      fp8_keys_(fp8_keys) {}

Network::~Network() = default;

CompileOptions Network::compile_options() const {
  return {session_.options().backend == Backend::Native, fp8_width_, fp8_keys_, label_};
}

void Network::foresee(const Bindings& bindings, CompileReport& report) {
  if (session_.options().backend == Backend::Reference) return;
  CompileOptions options = compile_options();
  if (session_.options().dynamic) return CompiledGraph::foresee(session_.engine(), *graph_, options, report);
  Graph specialised;
  copy_graph(*graph_, specialised, bindings);
  CompiledGraph::foresee(session_.engine(), specialised, options, report);
}

Network::Compiled& Network::compiled_for(const Bindings& bindings) {
  bool dynamic = session_.options().dynamic;
  for (auto& c : compiled_)
    if (dynamic || c->sizes == bindings) return *c;
  auto made = std::make_unique<Compiled>();
  const Graph* graph = graph_.get();
  if (!dynamic) {
    made->sizes = bindings;
    made->specialised = std::make_unique<Graph>();
    copy_graph(*graph_, *made->specialised, bindings);
    graph = made->specialised.get();
  }
  CompileOptions options = compile_options();
  made->graph = std::make_unique<CompiledGraph>(session_.engine(), *graph, options, session_.compiled());
  made->weights = session_.engine().bind_weights(*made->graph);
  if (!dynamic && !compiled_.empty()) compiled_.clear();  // weights are packed once, for the sizes at hand
  compiled_.push_back(std::move(made));
  return *compiled_.back();
}

void Network::compile(const Bindings& bindings) {
  if (session_.options().backend == Backend::Reference) return;
  compiled_for(bindings);
}

WeightSizes Network::weight_sizes(const Bindings& bindings) {
  return session_.options().backend == Backend::Reference ? WeightSizes{} : compiled_for(bindings).weights->sizes();
}

void Network::stream_weights(const Bindings& bindings, const std::vector<int>& blocks) {
  if (session_.options().backend == Backend::Reference) return;
  Compiled& c = compiled_for(bindings);
  if (c.weights->streamed_blocks() == blocks) return;
  for (auto& b : c.bound) b.plan.reset();
  c.weights->stream(blocks);
  c.loaded = false;
}

std::string Network::why_streams_slowly() const {
  for (const auto& c : compiled_)
    if (std::string why = c->weights->why_streams_slowly(); !why.empty()) return why;
  return {};
}

int64_t Network::loading_peak_bytes(const Bindings& bindings, const std::function<int64_t(const std::string&)>& reading) {
  return session_.options().backend == Backend::Reference ? 0 : compiled_for(bindings).weights->loading_peak_bytes(reading);
}

int64_t Network::arena_bytes(const Bindings& bindings) {
  if (session_.options().backend == Backend::Reference) return 0;
  return compiled_for(bindings).bind(bindings, kept_inputs_).layout->bytes();
}

int64_t Network::kept_bytes(const Bindings& bindings) {
  if (session_.options().backend == Backend::Reference) return 0;
  return compiled_for(bindings).bind(bindings, kept_inputs_).layout->kept_bytes();
}

void Network::load_weights(const std::function<void(double)>& progress) {
  for (auto& c : compiled_) {
    in_context("loading the weights of " + label_, [&] { c->weights->load(weights_, done_, progress); });
    c->loaded = true;
  }
}

void Network::unload_weights() {
  for (auto& c : compiled_) {
    c->weights->unload(done_);
    c->loaded = false;
    for (auto& b : c->bound) b.plan.reset();
  }
  session_.engine().release_buffers();
}

void Network::weights_changed(const std::set<std::string>& names) {
  for (auto& c : compiled_) {
    c->loaded = false;
    if (c->weights->forget(names)) continue;
    for (auto& b : c->bound) b.plan.reset();
  }
}

std::vector<Tensor> Network::run(const std::map<std::string, Tensor>& inputs) {
  return in_context("running " + label_, [&] {
    Bindings bindings = sizes_of(*graph_, inputs);
    if (session_.options().backend == Backend::Reference) return interpret_run(inputs, bindings);
    Compiled& c = compiled_for(bindings);
    if (!c.loaded) load_weights();
    Compiled::Bound& bound = c.bind(bindings, kept_inputs_);
    if (!bound.plan) bound.plan = session_.engine().plan(*c.graph, *bound.layout, *c.weights);
    bound.plan->measure(measuring_);
    return bound.plan->run(inputs);
  });
}

std::vector<Tensor> Network::interpret_run(const std::map<std::string, Tensor>& inputs, const Bindings& bindings) {
  std::map<std::string, Type> types;
  for (const WeightUse& use : weights_of(*graph_)) types[use.name] = use.type;
  auto read = [&](const std::string& name) {
    const Type& type = types.at(name);
    std::vector<int64_t> shape;
    for (const Dim& dim : type.shape) shape.push_back(dim.constant());
    return weights_(name).to(type.dtype).reshaped(shape);
  };
  std::map<std::string, Tensor> typed;
  for (Value input : graph_->inputs()) {
    const auto& name = input->attrs.as<NameAttrs>().name;
    if (auto at = inputs.find(name); at != inputs.end()) typed[name] = at->second.to(input.dtype());
  }
  return interpret(*graph_, typed, read, bindings);
}

std::map<std::string, double> Network::measured() const {
  std::map<std::string, double> sum;
  for (const auto& c : compiled_)
    for (const auto& b : c->bound)
      if (b.plan)
        for (const auto& [kind, seconds] : b.plan->measured()) sum[kind] += seconds;
  return sum;
}

}  // namespace sinter
