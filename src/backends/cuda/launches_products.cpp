#include "backends/cuda/calls/linear.h"
#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/kernels/gemm.h"
#include "backends/cuda/launch_steps.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

/// Batches of an f8e4m3 product that do not lie together are products of their own, and cuBLASLt wants the factors of each at
/// multiples of 16 bytes: where a batch has an odd number of rows, they are copied apart.
struct MovedScales {
  int64_t batch = 0, stride = 0;  ///< stride: in elements
  int64_t bytes() const { return batch * stride * int64_t(sizeof(float)); }
};
MovedScales moved_scales(const LinearStep& step, const Bindings& bindings) {
  int64_t batch = step.batch.value(bindings), m = step.m.value(bindings);
  if (step.a_type != DType::f8e4m3 || batch <= 1 || m % 4 == 0) return {};
  return {batch, round_up(m, 4)};
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

bool gates_itself(const Engine& engine, const LinearShape& shape) {
  return tile_product_should_win(shape, engine.context().device());
}

/// Both parts of a gated product, for a kernel that gates them afterwards; [batch, m, 2 n], dense.
LinearShape before_gating(LinearShape shape) {
  shape.gated = false, shape.n *= 2, shape.out_stride = shape.n, shape.out_batch = shape.m * shape.n;
  return shape;
}

}  // namespace

int64_t scratch_bytes(const LinearStep& step, const Bindings& bindings, const Engine& engine) {
  if (!step.tail->gated) return moved_scales(step, bindings).bytes();
  const LinearShape shape = linear_shape(step, bindings, engine.options()), wide = before_gating(shape);
  if (shape.m * shape.batch == 0 || gates_itself(engine, shape)) return 0;
  return wide.batch * wide.out_batch * byte_size(wide.out);
}

std::pair<LinearShape, LinearBuffers> LaunchBuilder::linear_call(const Instance& in, const LinearStep& step) {
  const VendorTail& tail = *step.tail;
  LinearBuffers buffers;
  buffers.a = address(in, step.a, step.a_type);
  buffers.weights = weights_.get(in.unit, in.prefix, step.weight) + DevicePtr(step.weight_row * step.k * byte_size(step.a_type));
  // They are uploaded before any run, or by copies that the stream waits for: no kernel of a run writes them.
  buffers.early_weights = true;
  buffers.out = address(in, step.out, tail.out_type);
  if (tail.bias >= 0)
    buffers.bias = weights_.get(in.unit, in.prefix, tail.bias) + DevicePtr(step.weight_row * byte_size(tail.out_type));
  if (tail.adds) buffers.residual = address(in, tail.residual, tail.out_type);
  return {linear_shape(step, in.bindings, engine_.options()), buffers};
}

void LaunchBuilder::add_step(const Instance& in, const LinearStep& step) {
  const VendorTail& tail = *step.tail;
  auto [shape, buffers] = linear_call(in, step);
  if (shape.m * shape.batch == 0) return;
  const bool gates = shape.gated && gates_itself(engine_, shape);
  shape.lower_alignment({buffers.a, buffers.weights, buffers.out, buffers.bias, buffers.residual});
  if (step.a_type == DType::f8e4m3) return add_fp8_linear(in, step, shape, buffers);
  if (!shape.gated || gates) return add_linear(shape, buffers);

  GateRowsCall gate{.from = in.scratch(), .type = tail.out_type, .rows = shape.m, .columns = shape.n, .to = buffers.out};
  gate.to_stride = shape.out_stride;
  const LinearShape wide = before_gating(shape);
  buffers.out = gate.from;
  add_linear(wide, buffers);
  for (int64_t i = 0; i < shape.batch; ++i) {
    launch_own("gate", fmt::format("{} x {}", gate.rows, gate.columns), [=](KernelTarget& target) { gate_rows(target, gate); });
    gate.from += DevicePtr(wide.out_batch * byte_size(gate.type)), gate.to += DevicePtr(shape.out_batch * byte_size(gate.type));
  }
}

void LaunchBuilder::add_linear(const LinearShape& shape, const LinearBuffers& buffers) {
  const bool gelu = shape.epilogue == LinearEpilogue::BiasGelu, vendor_can = !gelu || buffers.bias;
  std::string why =
      vendor_can ? add_vendor_call("linear", shape, buffers, plan_linear, nullptr, engine_.options().tune).why_none : "no bias";
  if (why.empty()) return;
  if (shape.gated) fail(Code::Internal, "the gated product {} was planned as one launch: {}", shape.text(), why);
  add_own_linear(shape, buffers);
}

void LaunchBuilder::add_own_linear(const LinearShape& shape, const LinearBuffers& buffers) {
  MatmulCall own;
  own.batch = shape.batch, own.m = shape.m, own.n = shape.n, own.k = shape.k, own.type = shape.a;
  own.a = buffers.a, own.w = buffers.weights, own.a_stride = shape.a_stride, own.a_batch_stride = shape.a_batch;
  own.w_batch_stride = shape.weights_batch;
  own.out_batch_stride = shape.out_batch, own.residual_batch_stride = shape.residual_batch;
  own.epilogue = {.out = buffers.out,
                  .out_type = shape.out,
                  .out_stride = shape.out_stride,
                  .bias = buffers.bias,
                  .bias_type = shape.out,
                  .gelu = shape.epilogue == LinearEpilogue::BiasGelu,
                  .residual = buffers.residual,
                  .residual_type = shape.out,
                  .residual_stride = shape.residual_stride};
  launch_own("linear (own)", shape.text(), [=](KernelTarget& target) { matmul(target, own); });
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
                          : add_vendor_call("linear", shape, at, plan_linear, nullptr, engine_.options().tune).why_none;
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
      launch_own("quantise", fmt::format("{} factors apart", m), [=](KernelTarget& target) { cast(target, copy); });
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
  for (int64_t i = 0; i < batch; ++i) {
    QuantiseRowsCall one = all;
    one.x += DevicePtr(i * in(step.x_batch_stride) * byte_size(step.type));
    one.to += DevicePtr(i * m * step.k);
    one.scales += DevicePtr(i * m * int64_t(sizeof(float)));
    launch_own("quantise", fmt::format("{} x {}", m, step.k), [=](KernelTarget& target) { quantise_rows(target, one); });
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
  if (add_vendor_call("linear", shape, buffers, plan_linear, nullptr, false).why_none.empty()) return;
  add_own_linear(shape, buffers);
}

}  // namespace sinter::cuda
