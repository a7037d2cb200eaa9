#include "backends/cuda/launches.h"

#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/launch_steps.h"
#include "backends/cuda/schedules.h"
#include "base/spans.h"

namespace sinter::cuda {

int64_t Engine::scratch_bytes(const Unit&, const Step& step, const Bindings& bindings) {
  return std::visit([&](const auto& one) { return cuda::scratch_bytes(one, bindings, *this); }, step);
}

/// In two walks: cuDNN takes tens of milliseconds for a plan, and as many are made at once as there are threads, while what does
/// not need them is timed.
void LaunchBuilder::add(const Unit& root, DevicePtr base, const std::vector<DevicePtr>& inputs,
                        const std::vector<DevicePtr>& outputs) {
  collecting_ = true;
  add(root, "", base, inputs, outputs);
  collecting_ = false;
  plan_ahead();
  depth_ = blocks_ = 0;
  const Span span("second walk");
  add(root, "", base, inputs, outputs);
}

void LaunchBuilder::plan_ahead() {
  for (auto& [key, call] : vendor_calls_)
    if (call.ahead) {
      call.made_ahead = call.made.get_future();
      ahead_.push_back(&call);
    }
  auto help = [this] {
    for (size_t i; (i = next_ahead_++) < ahead_.size() && !stopped_;) {
      VendorCall& call = *ahead_[i];
      try {
        engine_.context().make_current();
        call.ahead(call);
        call.made.set_value();
      } catch (...) {
        call.made.set_exception(std::current_exception());
      }
    }
  };
  engine_.vendor().settle_promising();
  const size_t helpers = std::min(ahead_.size(), size_t(engine_.pool().threads()));
  for (size_t i = 0; i < helpers; ++i) helpers_.push_back(std::async(std::launch::async, help));
}

void LaunchBuilder::add(const Unit& unit, const std::string& prefix, DevicePtr base, std::vector<DevicePtr> parameters,
                        std::vector<DevicePtr> results) {
  Instance instance{unit, prefix, base, parameters, results, layout_.of(unit), layout_.bindings()};
  WeightStream* stream = depth_++ == 0 ? weights_.stream() : nullptr;
  if (stream) launch("weights", "", [=] { stream->open(); });
  for (size_t i = 0; i < unit.program.steps.size(); ++i) {
    engine_.check_cancelled();  // the vendors' libraries think about each step, or time it
    instance.step = i;
    if (add_group_norm(instance) || add_shortcut(instance)) {
      ++i;
      continue;
    }
    std::visit([&](const auto& step) { add_step(instance, step); }, unit.program.steps[i]);
  }
  if (stream) launch("weights", "", [=] { stream->close(); });
  --depth_;
}

void LaunchBuilder::finish(std::vector<Launch>& launches, std::vector<DeviceMemory>& constants) {
  // As planned, so that it never grows; where memory is short, what these calls need.
  const int64_t planned = std::max(workspace_bytes_, engine_.vendor().limits().workspace_bytes);
  const DevicePtr address = engine_.workspace().at_least(planned, workspace_bytes_);
  Workspace workspace{address, engine_.workspace().bytes()};
  for (auto& [at, bind] : unbound_) launches_[at].run = bind(workspace);
  engine_.vendor().prepare(engine_.stream());
  engine_.stream().synchronize();  // constants are there
  launches = std::move(launches_);
  for (auto& [key, memory] : constants_) constants.push_back(std::move(memory));
}

void LaunchBuilder::launch(const char* kind, std::string detail, std::function<void()> run) {
  if (collecting_) return;
  launches_.push_back({kind, std::move(detail), std::move(run)});
}

void LaunchBuilder::launch_own(const char* kind, std::string detail, std::function<void(KernelTarget&)> run) {
  foresee(run);
  if (collecting_) return;
  launch(kind, std::move(detail), [run = std::move(run), e = &engine_] { run(e->kernel_target()); });
}

void LaunchBuilder::foresee(const std::function<void(KernelTarget&)>& run) {
  ForeseenKernels foreseen(engine_.kernels());
  run(foreseen);
}

void LaunchBuilder::call(const char* kind, std::string detail, int64_t bytes, Bind bind) {
  if (collecting_) return;
  workspace_bytes_ = std::max(workspace_bytes_, bytes);
  unbound_.emplace_back(launches_.size(), std::move(bind));
  launches_.push_back({kind, std::move(detail), {}});
}

Workspace LaunchBuilder::tuning_workspace() {
  const int64_t bytes = std::max(engine_.vendor().limits().workspace_bytes, workspace_bytes_);
  return {engine_.workspace().at_least(bytes), bytes};
}

DevicePtr LaunchBuilder::constant(const Unit& unit, int32_t index) {
  auto [at, fresh] = constants_.try_emplace({&unit, index});
  if (fresh) {
    const Tensor& value = unit.program.constants[size_t(index)];
    at->second = DeviceMemory(engine_.context(), std::max<int64_t>(value.bytes(), 1), "a constant");
    copy_to_device(at->second.address(), value.data(), value.bytes(), engine_.stream());
  }
  return at->second.address();
}

DevicePtr LaunchBuilder::address(const Instance& in, const BufferRef& b) {
  auto i = size_t(b.index);
  switch (b.space) {
    case BufferRef::parameter:
      return in.parameters[i];
    case BufferRef::result:
      return in.results[i];
    case BufferRef::temporary:
      return in.base + DevicePtr(in.layout.temporaries[i]);
    case BufferRef::constant:
      return constant(in.unit, b.index);
    case BufferRef::weight:
      return weights_.get(in.unit, in.prefix, b.index);
  }
  return 0;
}

DevicePtr LaunchBuilder::address(const Instance& in, const Place& place, DType type) {
  return address(in, place.buffer) + DevicePtr(in(place.offset) * byte_size(type));
}

void LaunchBuilder::add_step(const Instance& in, const RowStep& step) {
  if (collecting_) return;
  const KernelUse& use = step.use;
  const RowKernel& kernel = in.unit.program.kernels[size_t(use.kernel)];
  const GpuSchedule& schedule = in.unit.program.variants[size_t(use.variant)].schedule;
  const std::vector<int64_t> params = kernel_params(use, kernel, in.bindings);
  std::vector<uint64_t> addresses;
  for (size_t i = 0; i < use.operands.size(); ++i)
    addresses.push_back(address(in, {use.operands[i].buffer, use.operands[i].offset}, kernel.operands[i].dtype));
  GpuLaunch bound = launch_of(kernel, schedule, params);
  if (bound.blocks == 0) return;
  set_addresses(bound, kernel, schedule, addresses);
  LaunchShape shape{{uint32_t(bound.blocks)}, {uint32_t(bound.threads)}, 0, engine_.context().device().overlaps_launches()};
  std::string detail;
  for (size_t d = 0; d < use.outer.size(); ++d) detail += fmt::format("{} x ", params[1 + d]);
  detail += fmt::format("{}, {} operands", params[0], use.operands.size());
  launch("kernel", std::move(detail),
         [=, function = function_of(in.unit, use.variant), arguments = bound.arguments, e = &engine_] {
           void* pointer = const_cast<int64_t*>(arguments.data());
           function.launch(shape, e->stream(), std::span<void* const>(&pointer, 1));
         });
}

void LaunchBuilder::add_step(const Instance& in, const EmbeddingStep& step) {
  if (step.table_type != step.out_type)
    fail(Code::Unsupported, "an embedding of a {} table as {} has no form on the GPU", name(step.table_type),
         name(step.out_type));
  GatherRowsCall call;
  call.table = address(in, step.table, step.table_type), call.type = step.table_type;
  call.rows = in(step.rows), call.columns = step.width, call.count = in(step.count);
  call.indices = address(in, step.indices, DType::i64), call.to = address(in, step.out, step.out_type);
  launch_own("embedding", fmt::format("{} of {}", call.count, call.rows),
             [=](KernelTarget& target) { gather_rows(target, call); });
}

void LaunchBuilder::add_step(const Instance& in, const CallStep& step) {
  const auto& callee = in.unit.callees[size_t(step.callee)];
  std::vector<DevicePtr> arguments, results;
  for (BufferRef b : step.arguments) arguments.push_back(address(in, b));
  for (BufferRef b : step.results) results.push_back(address(in, b));
  WeightStream* stream = weights_.stream();
  const int streamed = depth_ == 1 && stream ? weights_.streamed(blocks_++) : -1;
  if (streamed >= 0) launch("weights", callee.prefix, [=] { stream->before(streamed); });
  add(*callee.unit, in.prefix + callee.prefix, in.scratch(), std::move(arguments), std::move(results));
  if (streamed >= 0) launch("weights", callee.prefix, [=] { stream->after(streamed); });
}

}  // namespace sinter::cuda
