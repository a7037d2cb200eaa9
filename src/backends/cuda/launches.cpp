#include "backends/cuda/launches.h"

#include <optional>
#include <utility>

#include "backends/cuda/attention_by_products.h"
#include "backends/cuda/calls/attention.h"
#include "backends/cuda/calls/conv.h"
#include "backends/cuda/calls/linear.h"
#include "backends/cuda/group_norm_steps.h"
#include "backends/cuda/kernels/attention.h"
#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/kernels/gemm.h"
#include "backends/cuda/kernels/group_norm.h"
#include "backends/cuda/kernels/group_stats.h"
#include "backends/cuda/schedules.h"
#include "base/rounding.h"

namespace sinter::cuda {

/// A unit as one call runs it.
struct LaunchBuilder::Instance {
  const Unit& unit;
  const std::string& prefix;
  DevicePtr base;
  const std::vector<DevicePtr>&parameters, &results;
  const UnitLayout& layout;
  const Bindings& bindings;
  size_t step = 0;

  int64_t operator()(const Dim& dim) const { return dim.value(bindings); }
  DevicePtr scratch() const { return base + DevicePtr(layout.scratch[step]); }
};

namespace {

GroupStatsCall call_of(const GroupStatsStep& step, const Bindings& bindings) {
  GroupStatsCall call;
  call.n = step.n.value(bindings), call.pixels = step.pixels.value(bindings);
  call.channels = step.channels, call.groups = step.groups;
  call.addend_type = step.addend_type, call.type = step.type, call.pixel_stride = step.pixel_stride.value(bindings),
  call.epsilon = step.epsilon;
  return call;
}

/// cuDNN's kernel for wider heads takes 7.4 ms where two products and a softmax take 2 (one head of 512, 16384 tokens), and for
/// f32 it has none that keeps all digits.
bool keeps_scores(const AttentionStep& step, const Bindings& bindings) {
  constexpr int64_t kWidestFlash = 256;
  int64_t d = step.d.value(bindings);
  return d > kWidestFlash || d % 8 != 0 || step.in == DType::f32;
}

int64_t scores_bytes(const AttentionStep& step, const Bindings& bindings) {
  AttentionCall call;
  call.heads = step.heads.value(bindings), call.queries = step.queries.value(bindings), call.keys = step.keys.value(bindings);
  call.type = step.in;
  return attention_workspace_bytes(call, true);
}

/// Batches of an f8e4m3 product that do not lie together are products of their own, and cuBLASLt wants the factors of each at
/// multiples of 16 bytes: where a batch has an odd number of rows, they are copied apart.
struct MovedScales {
  int64_t batch = 0, stride = 0;  ///< stride: in elements
  int64_t bytes() const { return batch * stride * int64_t(sizeof(float)); }
};
MovedScales moved_scales(const LinearStep& step, const Bindings& bindings) {
  int64_t batch = step.batch.value(bindings), m = step.m.value(bindings);
  if (step.a_type != DType::f8e4m3 || batch <= 1 || m % 4 == 0) return {};
  return {batch, (m + 3) / 4 * 4};
}

/// A product but for its types' compute and its addresses; alignment is what offsets leave of the buffers'.
LinearShape linear_shape(const LinearStep& step, const Bindings& bindings, const EngineOptions& options) {
  auto in = [&](const Dim& dim) { return dim.value(bindings); };
  const VendorTail& tail = *step.tail;
  LinearShape shape;
  shape.m = in(step.m), shape.n = step.n, shape.k = step.k, shape.batch = in(step.batch);
  shape.a = shape.weights = step.a_type, shape.out = tail.out_type;
  shape.a_stride = in(step.a_stride), shape.out_stride = in(step.out_stride);
  shape.a_batch = in(step.a_batch_stride), shape.out_batch = in(step.out_batch_stride);
  shape.epilogue = tail.gelu ? LinearEpilogue::BiasGelu : tail.bias >= 0 ? LinearEpilogue::Bias : LinearEpilogue::None;
  shape.residual = tail.adds, shape.gated = tail.gated;
  if (tail.adds) shape.residual_stride = in(tail.residual_stride), shape.residual_batch = in(tail.residual_batch_stride);
  if (shape.a == DType::f32 && options.allow_tf32) shape.compute = LinearCompute::TF32;
  if (shape.a == DType::f16 && options.f16_accumulate) shape.compute = LinearCompute::F16Accumulate;
  auto offset = [&](const Place& place, DType type) { return DevicePtr(in(place.offset) * byte_size(type)); };
  shape.lower_alignment({offset(step.a, step.a_type), offset(step.out, tail.out_type),
                         DevicePtr(step.weight_row * step.k * byte_size(step.a_type)),
                         tail.adds ? offset(tail.residual, tail.out_type) : 0});
  if (tail.bias >= 0) shape.lower_alignment({DevicePtr(step.weight_row * byte_size(tail.out_type))});
  return shape;
}

/// What a doubled convolution needs where its picture is not quite twice as large: the picture enlarged, behind it its windows as
/// they were before they became sums.
struct Enlarged {
  bool needed = false;
  int64_t picture_bytes = 0, filter_bytes = 0;
};
Enlarged enlarged(const ConvStep& step, const Bindings& bindings) {
  auto in = [&](const Dim& dim) { return dim.value(bindings); };
  const int64_t h = in(step.enlarged_h), w = in(step.enlarged_w), element = byte_size(step.in_type);
  if (!step.doubled || (h == 2 * in(step.h) && w == 2 * in(step.w))) return {};
  return {true, round_up(in(step.n) * h * w * step.c * element, kBufferAlignment),
          step.out_c * step.kernel_h * step.kernel_w * step.c * element};
}

bool gates_itself(Engine& engine, const LinearShape& shape) { return tile_product_should_win(shape, engine.context().device()); }

/// Both parts of a gated product, for a kernel that gates them afterwards; [batch, m, 2 n], dense.
LinearShape before_gating(LinearShape shape) {
  shape.gated = false, shape.n *= 2, shape.out_stride = shape.n, shape.out_batch = shape.m * shape.n;
  return shape;
}

}  // namespace

int64_t Engine::scratch_bytes(const Unit&, const Step& step, const Bindings& bindings) {
  if (const auto* attention = std::get_if<AttentionStep>(&step))
    return keeps_scores(*attention, bindings) ? scores_bytes(*attention, bindings) : 0;
  if (const auto* stats = std::get_if<GroupStatsStep>(&step))
    return group_stats_workspace_bytes(call_of(*stats, bindings), context_.device().multiprocessors);
  if (const auto* conv = std::get_if<ConvStep>(&step)) {
    const Enlarged e = enlarged(*conv, bindings);
    return e.picture_bytes + e.filter_bytes;
  }
  if (const auto* linear = std::get_if<LinearStep>(&step)) {
    if (!linear->tail->gated) return moved_scales(*linear, bindings).bytes();
    const LinearShape shape = linear_shape(*linear, bindings, options_), wide = before_gating(shape);
    if (shape.m * shape.batch == 0) return 0;
    return gates_itself(*this, shape) ? 0 : wide.batch * wide.out_batch * byte_size(wide.out);
  }
  return 0;
}

/// In two walks: cuDNN takes tens of milliseconds for a plan, and as many are made at once as there are threads.
void LaunchBuilder::add(const Unit& root, DevicePtr base, const std::vector<DevicePtr>& inputs,
                        const std::vector<DevicePtr>& outputs) {
  collecting_ = true;
  add(root, "", base, inputs, outputs);
  collecting_ = false;
  plan_ahead();
  depth_ = blocks_ = 0;
  add(root, "", base, inputs, outputs);
}

void LaunchBuilder::plan_ahead() {
  std::vector<VendorCall*> missing;
  for (auto& [key, call] : vendor_calls_)
    if (call.ahead) missing.push_back(&call);
  engine_.pool().parallel_for(int64_t(missing.size()), 1, [&](int64_t begin, int64_t end, int) {
    engine_.context().make_current();
    for (int64_t i = begin; i < end; ++i) missing[size_t(i)]->ahead(*missing[size_t(i)]);
  });
}

void LaunchBuilder::add(const Unit& unit, const std::string& prefix, DevicePtr base, std::vector<DevicePtr> parameters,
                        std::vector<DevicePtr> results) {
  Instance instance{unit, prefix, base, parameters, results, layout_.of(unit), layout_.bindings()};
  WeightStream* stream = depth_++ == 0 ? weights_.stream() : nullptr;
  if (stream) launch("weights", "", [=] { stream->open(); });
  for (size_t i = 0; i < unit.program.steps.size(); ++i) {
    engine_.check_cancelled();  // the vendors' libraries think about each step, or time it
    instance.step = i;
    if (add_group_norm(instance)) {
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

template <class Shape, class Buffers, class Plan>
std::string LaunchBuilder::add_vendor_call(const char* kind, const Shape& shape, const Buffers& buffers,
                                           Planner<Shape, Buffers, Plan> planner, Preparer<Shape> preparer, bool tune) {
  auto [at, fresh] = vendor_calls_.try_emplace(fmt::format("{}{} {}", tune ? "" : "untimed ", kind, shape.text()));
  VendorCall& known = at->second;
  if (collecting_) {
    if (!fresh) return {};
    if (!tune)
      known.ahead = [this, shape, planner](VendorCall& call) { call.planned = planner(engine_.vendor(), shape, nullptr); };
    else if (preparer)
      known.ahead = [this, shape, preparer](VendorCall& call) { call.candidates = preparer(engine_.vendor(), shape); };
    return {};
  }
  if (!known.planned.has_value()) {
    std::optional<TuneOn<Buffers>> on;
    if (tune) on.emplace(engine_.stream(), buffers, tuning_workspace(), std::exchange(known.candidates, nullptr));
    known.planned = planner(engine_.vendor(), shape, on ? &*on : nullptr);
  }
  auto plan = std::any_cast<Planned<Plan>>(known.planned);
  if (!plan) return plan.why_none;
  call(kind, shape.text(), plan->workspace_bytes(), [=, plan = plan.plan, e = &engine_](const Workspace& workspace) {
    return [bound = std::shared_ptr<BoundCall>(plan->bind(buffers, workspace)), e] { bound->launch(e->stream()); };
  });
  return {};
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

void LaunchBuilder::add_step(const Instance& in, const LinearStep& step) {
  const VendorTail& tail = *step.tail;
  LinearShape shape = linear_shape(step, in.bindings, engine_.options());
  if (shape.m * shape.batch == 0) return;
  LinearBuffers buffers;
  buffers.a = address(in, step.a, step.a_type);
  buffers.weights = weights_.get(in.unit, in.prefix, step.weight) + DevicePtr(step.weight_row * step.k * byte_size(step.a_type));
  buffers.out = address(in, step.out, tail.out_type);
  if (tail.bias >= 0)
    buffers.bias = weights_.get(in.unit, in.prefix, tail.bias) + DevicePtr(step.weight_row * byte_size(tail.out_type));
  if (tail.adds) buffers.residual = address(in, tail.residual, tail.out_type);
  const bool gates = shape.gated && gates_itself(engine_, shape);
  shape.lower_alignment({buffers.a, buffers.weights, buffers.out, buffers.bias, buffers.residual});
  if (step.a_type == DType::f8e4m3) return add_fp8_linear(in, step, shape, buffers);
  if (!shape.gated || gates) return add_linear(shape, buffers);

  GateRowsCall gate{.from = in.scratch(), .type = tail.out_type, .rows = shape.m, .columns = shape.n, .to = buffers.out};
  gate.to_stride = shape.out_stride;
  const LinearShape wide = before_gating(shape);
  buffers.out = gate.from;
  add_linear(wide, buffers);
  engine_.kernels().load("elements");
  for (int64_t i = 0; i < shape.batch; ++i) {
    launch("gate", fmt::format("{} x {}", gate.rows, gate.columns), [=, e = &engine_] { gate_rows(e->kernel_target(), gate); });
    gate.from += DevicePtr(wide.out_batch * byte_size(gate.type)), gate.to += DevicePtr(shape.out_batch * byte_size(gate.type));
  }
}

void LaunchBuilder::add_linear(const LinearShape& shape, const LinearBuffers& buffers) {
  const bool gelu = shape.epilogue == LinearEpilogue::BiasGelu, vendor_can = !gelu || buffers.bias;
  std::string why =
      vendor_can ? add_vendor_call("linear", shape, buffers, plan_linear, nullptr, engine_.options().tune) : "no bias";
  if (why.empty()) return;
  if (shape.gated) fail(Code::Internal, "the gated product {} was planned as one launch: {}", shape.text(), why);
  MatmulCall own;
  own.batch = shape.batch, own.m = shape.m, own.n = shape.n, own.k = shape.k, own.type = shape.a;
  own.a = buffers.a, own.w = buffers.weights, own.a_stride = shape.a_stride, own.a_batch_stride = shape.a_batch;
  own.out_batch_stride = shape.out_batch, own.residual_batch_stride = shape.residual_batch;
  own.epilogue = {.out = buffers.out,
                  .out_type = shape.out,
                  .out_stride = shape.out_stride,
                  .bias = buffers.bias,
                  .bias_type = shape.out,
                  .gelu = gelu,
                  .residual = buffers.residual,
                  .residual_type = shape.out,
                  .residual_stride = shape.residual_stride};
  engine_.kernels().load("gemm");
  launch("linear (own)", shape.text(), [=, e = &engine_] { matmul(e->kernel_target(), own); });
}

void LaunchBuilder::add_fp8_linear(const Instance& in, const LinearStep& step, LinearShape shape, LinearBuffers buffers) {
  const VendorTail& tail = *step.tail;
  shape.compute = LinearCompute::FP8Vector;
  buffers.a_scale = address(in, step.a_scales, DType::f32);
  buffers.weights_scale =
      weights_.row_scales(in.unit, in.prefix, step.weight) + DevicePtr(step.weight_row * int64_t(sizeof(float)));
  auto add = [&](const LinearBuffers& at) {
    std::string why = tail.gelu && tail.bias < 0
                          ? "GELU comes with a bias only"
                          : add_vendor_call("linear", shape, at, plan_linear, nullptr, engine_.options().tune);
    if (!why.empty()) fail(Code::Unsupported, "no f8e4m3 product {}: {}; --dtype bf16 works without", shape.text(), why);
  };
  if (shape.batch == 1) return add(buffers);
  // How the library steps through the factors of several products is nowhere said: each product is a call.
  const int64_t count = shape.batch, m = shape.m;
  const MovedScales moved = moved_scales(step, in.bindings);
  const int64_t a_batch = shape.a_batch, out_batch = shape.out_batch, residual_batch = shape.residual_batch;
  shape.batch = 1;
  for (int64_t i = 0; i < count; ++i) {
    LinearBuffers one = buffers;
    one.a += DevicePtr(i * a_batch);
    one.out += DevicePtr(i * out_batch * byte_size(tail.out_type));
    if (tail.adds) one.residual += DevicePtr(i * residual_batch * byte_size(tail.out_type));
    one.a_scale += DevicePtr(i * m * int64_t(sizeof(float)));
    if (moved.batch > 0) {
      CastCall copy{.from = one.a_scale, .to = in.scratch() + DevicePtr(i * moved.stride * int64_t(sizeof(float))), .count = m};
      engine_.kernels().load("elements");
      launch("quantise", fmt::format("{} factors apart", m), [=, e = &engine_] { cast(e->kernel_target(), copy); });
      one.a_scale = copy.to;
    }
    shape.lower_alignment({one.a, one.out, one.residual});
    add(one);
  }
}

void LaunchBuilder::add_step(const Instance& in, const QuantiseStep& step) {
  const int64_t batch = in(step.batch), m = in(step.m);
  if (batch * m == 0) return;
  QuantiseRowsCall all{.x = address(in, step.x, step.type), .type = step.type, .rows = m, .columns = step.k};
  all.x_stride = in(step.x_stride);
  all.to = address(in, step.out, DType::f8e4m3), all.scales = address(in, step.scales, DType::f32);
  engine_.kernels().load("elements");
  for (int64_t i = 0; i < batch; ++i) {
    QuantiseRowsCall one = all;
    one.x += DevicePtr(i * in(step.x_batch_stride) * byte_size(step.type));
    one.to += DevicePtr(i * m * step.k);
    one.scales += DevicePtr(i * m * int64_t(sizeof(float)));
    launch("quantise", fmt::format("{} x {}", m, step.k), [=, e = &engine_] { quantise_rows(e->kernel_target(), one); });
  }
}

void LaunchBuilder::add_step(const Instance& in, const MatmulStep& step) {
  LinearShape shape;
  shape.m = in(step.m), shape.n = in(step.n), shape.k = in(step.k), shape.batch = in(step.batch);
  shape.a = step.a_type, shape.weights = step.b_type, shape.out = step.out_type;
  shape.a_batch = shape.m * shape.k, shape.weights_batch = step.shared_b ? 0 : shape.n * shape.k,
  shape.out_batch = shape.m * shape.n;
  if (shape.a == DType::f32 && engine_.options().allow_tf32) shape.compute = LinearCompute::TF32;
  if (shape.m * shape.n * shape.batch == 0) return;
  LinearBuffers buffers;
  buffers.a = address(in, step.a, step.a_type), buffers.weights = address(in, step.b, step.b_type);
  buffers.out = address(in, step.out, step.out_type);
  shape.lower_alignment({buffers.a, buffers.weights, buffers.out});
  if (step.a_type != step.b_type)
    fail(Code::Unsupported, "a product of {} by {} has no form on the GPU", name(step.a_type), name(step.b_type));
  if (add_vendor_call("linear", shape, buffers, plan_linear, nullptr, false).empty()) return;
  MatmulCall own;
  own.batch = shape.batch, own.m = shape.m, own.n = shape.n, own.k = shape.k, own.type = shape.a;
  own.a = buffers.a, own.w = buffers.weights;
  own.a_batch_stride = shape.a_batch, own.w_batch_stride = shape.weights_batch, own.out_batch_stride = shape.out_batch;
  own.epilogue = {.out = buffers.out, .out_type = shape.out};
  engine_.kernels().load("gemm");
  launch("linear (own)", shape.text(), [=, e = &engine_] { matmul(e->kernel_target(), own); });
}

void LaunchBuilder::add_step(const Instance& in, const ConvStep& step) {
  const VendorTail& tail = *step.tail;
  ConvShape shape;
  shape.n = in(step.n), shape.c = step.c, shape.out_c = step.out_c, shape.type = step.in_type;
  shape.axes = {{in(step.h), step.kernel_h, step.stride, step.top, step.bottom},
                {in(step.w), step.kernel_w, step.stride, step.left, step.right}};
  shape.bias = tail.bias >= 0, shape.residual = tail.adds, shape.allow_tf32 = engine_.options().allow_tf32;
  const Enlarged larger = enlarged(step, in.bindings);
  if (larger.needed) {
    shape.axes[0].in = in(step.enlarged_h), shape.axes[1].in = in(step.enlarged_w);
  } else if (step.doubled) {
    shape.doubles = true;
    for (ConvAxis& axis : shape.axes) axis.kernel = 4, axis.stride = 2;
  }
  if (shape.n * shape.out_pixels() == 0) return;
  ConvBuffers buffers;
  buffers.in = address(in, step.in, step.in_type);
  buffers.weights = step.computed ? address(in, step.filter, step.filter_type) : weights_.get(in.unit, in.prefix, step.weight);
  buffers.out = address(in, step.out, tail.out_type);
  if (shape.bias) buffers.bias = weights_.get(in.unit, in.prefix, tail.bias);
  if (larger.needed) {
    const DevicePtr picture = in.scratch(), filters = picture + DevicePtr(larger.picture_bytes);
    enlarge(shape, buffers, picture, filters);
    buffers.in = picture, buffers.weights = filters;
  }
  if (tail.adds) buffers.residual = address(in, tail.residual, tail.out_type);
  const bool vendor_can = tail.out_type == step.in_type, tune = engine_.options().tune;
  auto add = [&] { return vendor_can && add_vendor_call("conv", shape, buffers, plan_conv, prepare_conv, tune).empty(); };
  if (shape.residual && tune && residual_should_be_fused(shape) && add()) return;
  shape.residual = false;
  if (add()) return tail.adds ? add_step(in, RowStep{*step.epilogue}) : void();
  ConvCall own;
  own.n = shape.n, own.h = shape.axes[0].in, own.w = shape.axes[1].in, own.c = step.c, own.out_c = step.out_c;
  own.kernel_h = int(step.kernel_h), own.kernel_w = int(step.kernel_w), own.stride = int(step.stride);
  own.pad_top = int(step.top), own.pad_left = int(step.left), own.pad_bottom = int(step.bottom), own.pad_right = int(step.right);
  own.type = step.in_type, own.in = buffers.in, own.filters = buffers.weights;
  own.epilogue = {.out = buffers.out,
                  .out_type = tail.out_type,
                  .bias = buffers.bias,
                  .bias_type = tail.out_type,
                  .residual = buffers.residual,
                  .residual_type = tail.out_type};
  engine_.kernels().load("gemm");
  if (shape.doubles) return add_places(own, shape.text());
  launch("conv (own)", shape.text(), [=, e = &engine_] { conv(e->kernel_target(), own); });
}

/// The picture that `whole` reads, from one of half its size, and its windows of 3 x 3 from their sums.
void LaunchBuilder::enlarge(const ConvShape& whole, const ConvBuffers& from, DevicePtr picture, DevicePtr filters) {
  DoublePictureCall larger{.from = from.in, .to = picture, .type = whole.type, .n = whole.n, .c = whole.c};
  larger.h = whole.axes[0].in, larger.w = whole.axes[1].in;
  FiltersCall windows{.from = from.weights, .to = filters, .from_type = whole.type, .to_type = whole.type};
  windows.k = whole.out_c, windows.c = whole.c, windows.taps = 16;
  engine_.kernels().load("elements");
  launch("enlarge", fmt::format("{} x {} x {} x {}", larger.n, larger.h, larger.w, larger.c),
         [=, e = &engine_] { double_picture(e->kernel_target(), larger); });
  launch("enlarge", fmt::format("windows {} -> {}", windows.c, windows.k),
         [=, e = &engine_] { filters_undoubled(e->kernel_target(), windows); });
}

/// Even and odd rows and columns of the result are convolutions of their own, of 2 x 2 pixels.
void LaunchBuilder::add_places(const ConvCall& whole, std::string detail) {
  const int64_t element = byte_size(whole.type), filters = 4 * whole.out_c * whole.c * element;
  const int64_t pixel = whole.out_c * byte_size(whole.epilogue.out_type);
  engine_.kernels().load("elements");
  call("conv (own)", std::move(detail), 4 * filters, [=, e = &engine_](const Workspace& workspace) {
    return [=] {
      filters_of_places(e->kernel_target(), {.from = whole.filters,
                                             .to = workspace.address,
                                             .from_type = whole.type,
                                             .to_type = whole.type,
                                             .k = whole.out_c,
                                             .c = whole.c,
                                             .taps = 16});
      for (int place = 0; place < 4; ++place) {
        const int odd_row = place / 2, odd_column = place % 2;
        ConvCall one = whole;
        one.kernel_h = one.kernel_w = 2, one.out_step = 2;
        one.pad_top = 1 - odd_row, one.pad_bottom = odd_row, one.pad_left = 1 - odd_column, one.pad_right = odd_column;
        one.filters = workspace.address + DevicePtr(place * filters);
        one.epilogue.out += DevicePtr((odd_row * 2 * whole.w + odd_column) * pixel);
        conv(e->kernel_target(), one);
      }
    };
  });
}

void LaunchBuilder::add_step(const Instance& in, const AttentionStep& step) {
  auto strides = [&](const HeadPlace& p) { return HeadStrides{in(p.b), in(p.t), in(p.h)}; };
  AttentionShape shape;
  shape.b = in(step.b), shape.heads = in(step.heads), shape.queries = in(step.queries), shape.keys = in(step.keys);
  shape.d = in(step.d), shape.type = step.in, shape.causal = step.causal, shape.allow_tf32 = engine_.options().allow_tf32;
  shape.q = strides(step.q), shape.k = strides(step.k), shape.v = strides(step.v), shape.out = strides(step.out);
  if (shape.b * shape.heads * shape.queries == 0) return;
  if (step.in == DType::f8e4m3) return add_fp8_attention(in, step, shape);
  AttentionBuffers buffers;
  buffers.q = address(in, step.q.at, step.in), buffers.k = address(in, step.k.at, step.in);
  buffers.v = address(in, step.v.at, step.in), buffers.out = address(in, step.out.at, step.out_type);
  buffers.scale = float(step.scale);
  int64_t bias_key_stride = 1;
  if (step.biased) {
    shape.bias = AttentionBias{DType::f32, strides(step.bias)};
    buffers.bias = address(in, step.bias.at, DType::f32);
    bias_key_stride = in(step.bias_key_stride);
  }
  const bool keeps = keeps_scores(step, in.bindings);
  const bool tf32 = step.in == DType::f32 && engine_.options().allow_tf32;
  bool vendor_can = step.in == step.out_type && bias_key_stride == 1 && (!keeps || tf32);
  if (vendor_can &&
      add_vendor_call("attention", shape, buffers, plan_attention, prepare_attention, engine_.options().tune).empty())
    return;
  AttentionCall own;
  own.b = shape.b, own.heads = shape.heads, own.queries = shape.queries, own.keys = shape.keys, own.d = shape.d;
  own.scale = buffers.scale, own.causal = shape.causal, own.type = shape.type;
  own.q = buffers.q, own.k = buffers.k, own.v = buffers.v, own.out = buffers.out;
  own.q_strides = shape.q, own.k_strides = shape.k, own.v_strides = shape.v, own.out_strides = shape.out;
  if (shape.bias) own.bias = buffers.bias, own.bias_strides = shape.bias->strides, own.bias_key_stride = bias_key_stride;
  for (const char* module : {"attention", "gemm"}) engine_.kernels().load(module);
  if (keeps) {
    own.workspace = in.scratch();
    auto products = std::make_shared<AttentionByProducts>(engine_, own);
    if (*products) {
      auto bind = [products, scores = own.workspace](const Workspace& workspace) { return products->bind(scores, workspace); };
      return call("attention", shape.text() + " by products", products->workspace_bytes(), bind);
    }
  }
  const int64_t bytes = attention_workspace_bytes(own, attention_keeps_scores(own));
  call("attention (own)", shape.text(), bytes, [=, e = &engine_](const Workspace& workspace) {
    AttentionCall bound = own;
    bound.workspace = workspace.address;
    return [=] { attention(e->kernel_target(), bound); };
  });
}

void LaunchBuilder::add_fp8_attention(const Instance& in, const AttentionStep& step, const AttentionShape& shape) {
  const DevicePtr numbers = engine_.fp8_attention_numbers(), one = numbers;
  auto number = [&](int i) { return numbers + DevicePtr(i) * sizeof(float); };
  Fp8AttentionBuffers buffers;
  buffers.q = address(in, step.q.at, step.in), buffers.k = address(in, step.k.at, step.in);
  buffers.v = address(in, step.v.at, step.in), buffers.out = address(in, step.out.at, step.out_type);
  buffers.descale_q = buffers.descale_k = address(in, step.unit, DType::f32);
  buffers.descale_v = buffers.scale_out = one;  // the result stays in the units of v
  buffers.scale_s = number(1), buffers.descale_s = number(2);
  buffers.largest_s = number(3), buffers.largest_out = number(4);
  buffers.scale = float(step.scale);
  std::string why =
      add_vendor_call("attention", shape, buffers, plan_fp8_attention, prepare_fp8_attention, engine_.options().tune);
  if (!why.empty())
    fail(Code::Unsupported, "no f8e4m3 attention {}: {}; --attention-dtype auto works without", shape.text(), why);
}

GroupStatsCall LaunchBuilder::group_stats_call(const Instance& in, const GroupStatsStep& step) {
  GroupStatsCall call = call_of(step, in.bindings);
  call.x = address(in, step.x, step.type);
  call.gamma = address(in, step.gamma, DType::f32), call.beta = address(in, step.beta, DType::f32);
  if (step.adds) call.addend = address(in, step.addend, step.addend_type), call.addend_stride = in(step.addend_stride);
  return call;
}

bool LaunchBuilder::add_group_norm(const Instance& in) {
  const auto* step = std::get_if<GroupStatsStep>(&in.unit.program.steps[in.step]);
  const auto steps = step ? group_norm_steps(in.unit.program, in.step, in.bindings) : std::nullopt;
  if (!steps) return false;
  GroupNormCall call{.of = group_stats_call(in, *step), .silu = steps->silu};
  call.out = address(in, steps->out, step->type), call.out_stride = steps->out_stride;
  const GroupStatsCall& of = call.of;
  // What only the statistics read may lie where the row kernel writes: its memory was free again.
  const DevicePtr end = call.out + DevicePtr(of.n * of.pixels * call.out_stride * byte_size(of.type));
  auto apart = [&](DevicePtr from, int64_t bytes) { return from + DevicePtr(bytes) <= call.out || end <= from; };
  const bool parameters_stay =
      apart(of.gamma, of.channels * 4) && apart(of.beta, of.channels * 4) &&
      (!step->adds || apart(of.addend, ((of.n - 1) * of.addend_stride + of.channels) * byte_size(of.addend_type)));
  if (!group_norm_limits_) group_norm_limits_ = GroupNormLimits::of(engine_.kernels());
  const GroupNormLimits limits = *group_norm_limits_;
  if (!parameters_stay || !group_norm_fits(call, limits)) return false;
  engine_.kernels().load("group_norm");
  std::string detail =
      fmt::format("{} x {} x {}, {} groups{}", of.n, of.pixels, of.channels, of.groups, call.silu ? ", SiLU" : "");
  launch("group_norm", std::move(detail), [=, e = &engine_] { group_norm(e->kernel_target(), call, limits); });
  return true;
}

void LaunchBuilder::add_step(const Instance& in, const GroupStatsStep& step) {
  GroupStatsCall call = group_stats_call(in, step);
  call.out = address(in, step.out, DType::f32), call.workspace = in.scratch();
  call.counters = engine_.group_stats_counters();
  engine_.kernels().load("group_stats");
  std::string detail = fmt::format("{} x {} x {}, {} groups", call.n, call.pixels, call.channels, call.groups);
  launch("group_stats", std::move(detail), [=, e = &engine_] { group_stats(e->kernel_target(), call); });
}

void LaunchBuilder::add_step(const Instance& in, const EmbeddingStep& step) {
  if (step.table_type != step.out_type)
    fail(Code::Unsupported, "an embedding of a {} table as {} has no form on the GPU", name(step.table_type),
         name(step.out_type));
  GatherRowsCall call;
  call.table = address(in, step.table, step.table_type), call.type = step.table_type;
  call.rows = in(step.rows), call.columns = step.width, call.count = in(step.count);
  call.indices = address(in, step.indices, DType::i64), call.to = address(in, step.out, step.out_type);
  engine_.kernels().load("elements");
  launch("embedding", fmt::format("{} of {}", call.count, call.rows),
         [=, e = &engine_] { gather_rows(e->kernel_target(), call); });
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
