#include "backends/cuda/plan.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/launches.h"
#include "backends/cuda/schedules.h"
#include "base/spans.h"
#include "graph/ops.h"

namespace sinter::cuda {

Plan::Plan(Engine& engine, const CompiledGraph& compiled, const Layout& layout, const BoundWeights& weights)
    : engine_(engine), compiled_(compiled), layout_(layout), weights_(weights) {
  engine_.context().make_current();
  auto transfer = [&](Value v, int64_t offset) {
    return Transfer{v, offset, element_count(v.shape()).value(layout_.bindings()) * byte_size(v.dtype())};
  };
  const Graph& graph = compiled.root().graph;
  for (size_t i = 0; i < graph.inputs().size(); ++i)
    inputs_.push_back(transfer(graph.inputs()[i], layout_.input_offset(i) + (layout_.is_kept(i) ? layout_.root_offset() : 0)));
  for (size_t i = 0; i < graph.outputs().size(); ++i)
    outputs_.push_back(transfer(graph.outputs()[i].value, layout_.output_offset(i)));
  kept_.resize(inputs_.size());
  pinned_ = PinnedMemory(engine_.context(), std::max<int64_t>(layout_.root_offset() + layout_.kept_bytes(), 1));
  engine_.add(*this);
}

Plan::~Plan() {
  engine_.remove(*this);
  try {
    engine_.stream().synchronize();  // a run that was cut off may still read what goes away now
  } catch (const Error&) {           // the device is lost, which the run has said
  }
}

void Plan::give_back_memory() {
  graph_ = {};
  launches_.clear();
  constants_.clear();
  kept_memory_ = {};
  kept_.assign(inputs_.size(), {});
  arena_version_ = workspace_version_ = -1;
}

void Plan::build() {
  if (layout_.kept_bytes() > 0 && !kept_memory_.address())
    kept_memory_ = DeviceMemory(engine_.context(), layout_.kept_bytes(), "what the prompt gives to every step");
  DevicePtr arena = engine_.arena().at_least(layout_.bytes());
  if (engine_.arena().version() == arena_version_ && engine_.workspace().version() == workspace_version_) return;
  graph_ = {};
  launches_.clear();
  constants_.clear();
  runs_ = 0;
  const Span span("plan launches");
  LaunchBuilder builder(engine_, layout_, weights_);
  std::vector<DevicePtr> inputs, outputs;
  for (size_t i = 0; i < inputs_.size(); ++i)
    inputs.push_back((layout_.is_kept(i) ? kept_memory_.address() : arena) + DevicePtr(layout_.input_offset(i)));
  for (size_t i = 0; i < outputs_.size(); ++i) outputs.push_back(arena + DevicePtr(layout_.output_offset(i)));
  builder.add(compiled_.root(), arena + DevicePtr(layout_.root_offset()), inputs, outputs);
  builder.finish(launches_, constants_);
  arena_version_ = engine_.arena().version();
  workspace_version_ = engine_.workspace().version();
  engine_.note_memory();
}

std::vector<Launch>& Plan::launches() {
  build();
  return launches_;
}

std::vector<int64_t> Plan::sizes_of(const Shape& shape) const {
  std::vector<int64_t> sizes;
  for (const Dim& dim : shape) sizes.push_back(dim.value(layout_.bindings()));
  return sizes;
}

void Plan::launch_one_by_one() {
  for (const Launch& launch : launches_) {
    engine_.check_cancelled();
    launch.run();
  }
}

void Plan::time_one_by_one() {
  std::vector<std::unique_ptr<Event>> events;
  auto mark = [&] {
    events.push_back(std::make_unique<Event>(engine_.context(), Event::Timing::Yes));
    events.back()->record(engine_.stream());
  };
  mark();
  for (const Launch& launch : launches_) {
    engine_.check_cancelled();
    launch.run();
    mark();
  }
  engine_.stream().synchronize();
  for (size_t i = 0; i < launches_.size(); ++i) launches_[i].seconds += events[i + 1]->milliseconds_since(*events[i]) / 1000;
}

void Plan::submit() {
  build();
  if (weights_.stream()) weights_.stream()->begin_run();
  queue();
  if (weights_.stream()) weights_.stream()->end_run();
  ++runs_;
}

void Plan::queue() {
  if (measuring_) {
    time_one_by_one();
  } else if (!engine_.options().replay || runs_ == 0) {
    launch_one_by_one();
  } else {
    if (!graph_) {
      Capture capture(engine_.stream());
      for (const Launch& launch : launches_) launch.run();
      graph_ = capture.finish();
    }
    graph_.launch(engine_.stream());
  }
}

void Plan::copy_inputs(const std::map<std::string, Tensor>& inputs) {
  const Stream& stream = engine_.stream();
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Transfer& t = inputs_[i];
    const std::string& name = t.value->attrs.as<NameAttrs>().name;
    auto at = inputs.find(name);
    if (at == inputs.end()) fail(Code::InvalidArgument, "the input '{}' is missing", name);
    if (std::vector<int64_t> expected = sizes_of(t.value.shape()); at->second.shape() != expected)
      fail(Code::InvalidArgument, "the input '{}' should have the shape {}, not {}", name, shape_text(expected),
           shape_text(at->second.shape()));
    if (t.bytes == 0) continue;
    bool kept = layout_.is_kept(i);
    if (kept && at->second.data() == kept_[i].data() && at->second.dtype() == kept_[i].dtype()) continue;
    convert(at->second.data(), at->second.dtype(), pinned_.data() + t.offset, t.value.dtype(), at->second.count());
    if (!kept) continue;
    copy_to_device(kept_memory_.address() + DevicePtr(layout_.input_offset(i)), pinned_.data() + t.offset, t.bytes, stream);
    kept_[i] = at->second;
  }
  if (layout_.input_bytes() > 0) copy_to_device(engine_.arena().address(), pinned_.data(), layout_.input_bytes(), stream);
}

void Plan::run_on_device(const std::map<std::string, Tensor>& inputs) {
  const Stream& stream = engine_.stream();
  build();
  copy_inputs(inputs);
  submit();
  int64_t outputs = layout_.input_bytes();
  if (layout_.root_offset() > outputs)
    copy_to_host(pinned_.data() + outputs, engine_.arena().address() + DevicePtr(outputs), layout_.root_offset() - outputs,
                 stream);
  stream.synchronize();
}

std::vector<Tensor> Plan::run(const std::map<std::string, Tensor>& inputs) {
  engine_.context().make_current();
  engine_.check_cancelled();
  engine_.with_enough_memory([&] { run_on_device(inputs); });
  std::vector<Tensor> results;
  for (const Transfer& t : outputs_) {
    Tensor out(t.value.dtype(), sizes_of(t.value.shape()));
    if (t.bytes > 0) std::memcpy(out.data(), pinned_.data() + t.offset, size_t(t.bytes));
    results.push_back(std::move(out));
  }
  return results;
}

std::map<std::string, double> Plan::measured() const {
  std::map<std::string, double> sum;
  for (const Launch& launch : launches_) sum[launch.kind] += launch.seconds;
  return sum;
}

}  // namespace sinter::cuda
