#include "backends/cuda/plan.h"

#include <algorithm>
#include <cstring>

#include "backends/cuda/launches.h"
#include "backends/cuda/schedules.h"
#include "graph/ops.h"

namespace sinter::cuda {
namespace {

int64_t aligned(int64_t bytes) { return (bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment; }

}  // namespace

Plan::Plan(Engine& engine, const CompiledGraph& compiled, const Layout& layout, const BoundWeights& weights)
    : engine_(engine), compiled_(compiled), layout_(layout), weights_(weights) {
  engine_.context().make_current();
  int64_t bytes = 0;
  auto transfer = [&](Value v) {
    Transfer t{v, bytes, element_count(v.shape()).value(layout_.bindings()) * byte_size(v.dtype())};
    bytes += aligned(t.bytes);
    return t;
  };
  for (Value input : compiled.root().graph.inputs()) inputs_.push_back(transfer(input));
  for (const Output& output : compiled.root().graph.outputs()) outputs_.push_back(transfer(output.value));
  pinned_ = PinnedMemory(engine_.context(), std::max<int64_t>(bytes, 1));
}

Plan::~Plan() = default;

void Plan::build() {
  DevicePtr arena = engine_.arena().at_least(layout_.bytes());
  if (engine_.arena().version() == arena_version_ && engine_.workspace().version() == workspace_version_) return;
  graph_ = {};
  launches_.clear();
  constants_.clear();
  runs_ = 0;
  LaunchBuilder builder(engine_, layout_, weights_);
  std::vector<DevicePtr> inputs, outputs;
  for (size_t i = 0; i < inputs_.size(); ++i) inputs.push_back(arena + DevicePtr(layout_.input_offset(i)));
  for (size_t i = 0; i < outputs_.size(); ++i) outputs.push_back(arena + DevicePtr(layout_.output_offset(i)));
  builder.add(compiled_.root(), "", arena + DevicePtr(layout_.root_offset()), inputs, outputs);
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
  ++runs_;
}

std::vector<Tensor> Plan::run(const std::map<std::string, Tensor>& inputs) {
  engine_.context().make_current();
  engine_.check_cancelled();
  build();
  const Stream& stream = engine_.stream();
  DevicePtr arena = engine_.arena().address();
  for (size_t i = 0; i < inputs_.size(); ++i) {
    const Transfer& t = inputs_[i];
    const std::string& name = t.value->attrs.as<NameAttrs>().name;
    auto at = inputs.find(name);
    if (at == inputs.end()) fail(Code::InvalidArgument, "the input '{}' is missing", name);
    if (std::vector<int64_t> expected = sizes_of(t.value.shape()); at->second.shape() != expected)
      fail(Code::InvalidArgument, "the input '{}' should have the shape {}, not {}", name, shape_text(expected),
           shape_text(at->second.shape()));
    if (t.bytes == 0) continue;
    convert(at->second.data(), at->second.dtype(), pinned_.data() + t.offset, t.value.dtype(), at->second.count());
    copy_to_device(arena + DevicePtr(layout_.input_offset(i)), pinned_.data() + t.offset, t.bytes, stream);
  }
  submit();
  for (size_t i = 0; i < outputs_.size(); ++i)
    if (outputs_[i].bytes > 0)
      copy_to_host(pinned_.data() + outputs_[i].offset, arena + DevicePtr(layout_.output_offset(i)), outputs_[i].bytes, stream);
  stream.synchronize();
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
