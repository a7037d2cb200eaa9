#include "backends/cuda/calls/conv.h"
#include "backends/cuda/kernels/elements.h"
#include "backends/cuda/kernels/gemm.h"
#include "backends/cuda/launch_steps.h"
#include "backends/cuda/schedules.h"
#include "backends/cuda/thin_conv_steps.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

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

}  // namespace

int64_t scratch_bytes(const ConvStep& step, const Bindings& bindings, const Engine&) {
  const Enlarged e = enlarged(step, bindings);
  return e.picture_bytes + e.filter_bytes;
}

ConvShape LaunchBuilder::conv_shape(const Instance& in, const ConvStep& step) {
  const VendorTail& tail = *step.tail;
  ConvShape shape;
  shape.n = in(step.n), shape.c = step.c, shape.out_c = step.out_c, shape.type = step.in_type;
  shape.axes = {{in(step.h), step.kernel_h, step.stride, step.top, step.bottom},
                {in(step.w), step.kernel_w, step.stride, step.left, step.right}};
  shape.bias = tail.bias >= 0, shape.allow_tf32 = engine_.options().allow_tf32;
  shape.residual = tail.adds, shape.rest_may_follow = step.epilogue.has_value();
  if (enlarged(step, in.bindings).needed) {
    shape.axes[0].in = in(step.enlarged_h), shape.axes[1].in = in(step.enlarged_w);
  } else if (step.doubled) {
    shape.doubles = true;
    for (ConvAxis& axis : shape.axes) axis.kernel = 4, axis.stride = 2;
  }
  return shape;
}

ConvBuffers LaunchBuilder::conv_buffers(const Instance& in, const ConvStep& step) {
  const VendorTail& tail = *step.tail;
  ConvBuffers buffers;
  buffers.in = address(in, step.in, step.in_type);
  buffers.weights = step.computed ? address(in, step.filter, step.filter_type) : weights_.get(in.unit, in.prefix, step.weight);
  buffers.out = address(in, step.out, tail.out_type);
  if (tail.bias >= 0) buffers.bias = weights_.get(in.unit, in.prefix, tail.bias);
  if (tail.adds) buffers.residual = address(in, tail.residual, tail.out_type);
  buffers.early_weights = !step.computed;  // nothing of a run writes them
  return buffers;
}

void LaunchBuilder::add_step(const Instance& in, const ConvStep& step) {
  if (add_thin_conv(in, step)) return;
  const VendorTail& tail = *step.tail;
  const ConvShape shape = conv_shape(in, step);
  if (shape.n * shape.out_pixels() == 0) return;
  ConvBuffers buffers = conv_buffers(in, step);
  const Enlarged larger = enlarged(step, in.bindings);
  if (larger.needed) {
    const DevicePtr picture = in.scratch(), filters = picture + DevicePtr(larger.picture_bytes);
    enlarge(shape, buffers, picture, filters);
    buffers.in = picture, buffers.weights = filters, buffers.early_weights = false;
  }
  if (tail.out_type == step.in_type) {
    const auto added = add_vendor_call("conv", shape, buffers, plan_conv, prepare_conv, engine_.options().tune);
    auto left_out = [&](bool ConvShape::*part) { return added.plan && shape.*part && !(added.plan->shape().*part); };
    const bool rest_follows = left_out(&ConvShape::residual) || left_out(&ConvShape::bias);
    if (added.why_none.empty()) return rest_follows ? add_step(in, RowStep{*step.epilogue}) : void();
  }
  ConvCall own = conv_call(step);
  own.n = shape.n, own.h = shape.axes[0].in, own.w = shape.axes[1].in;
  own.in = buffers.in, own.filters = buffers.weights;
  own.epilogue.out = buffers.out, own.epilogue.bias = buffers.bias;
  own.epilogue.residual = buffers.residual, own.epilogue.residual_type = tail.out_type;
  if (shape.doubles) return add_places(own, shape.text());
  launch_own("conv (own)", shape.text(), [=](KernelTarget& target) { conv(target, own); });
}

/// The picture that `whole` reads, from one of half its size, and its windows of 3 x 3 from their sums.
void LaunchBuilder::enlarge(const ConvShape& whole, const ConvBuffers& from, DevicePtr picture, DevicePtr filters) {
  DoublePictureCall larger{.from = from.in, .to = picture, .type = whole.type, .n = whole.n, .c = whole.c};
  larger.h = whole.axes[0].in, larger.w = whole.axes[1].in;
  FiltersCall windows{.from = from.weights, .to = filters, .from_type = whole.type, .to_type = whole.type};
  windows.k = whole.out_c, windows.c = whole.c, windows.taps = 16;
  launch_own("enlarge", fmt::format("{} x {} x {} x {}", larger.n, larger.h, larger.w, larger.c),
             [=](KernelTarget& target) { double_picture(target, larger); });
  launch_own("enlarge", fmt::format("windows {} -> {}", windows.c, windows.k),
             [=](KernelTarget& target) { filters_undoubled(target, windows); });
}

/// Even and odd rows and columns of the result are convolutions of their own, of 2 x 2 pixels.
static void conv_of_places(KernelTarget& target, const ConvCall& whole, DevicePtr filters) {
  const int64_t element = byte_size(whole.type), bytes = 4 * whole.out_c * whole.c * element;
  const int64_t pixel = whole.out_c * byte_size(whole.epilogue.out_type);
  filters_of_places(target, {.from = whole.filters,
                             .to = filters,
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
    one.filters = filters + DevicePtr(place * bytes);
    one.epilogue.out += DevicePtr((odd_row * 2 * whole.w + odd_column) * pixel);
    conv(target, one);
  }
}

void LaunchBuilder::add_places(const ConvCall& whole, std::string detail) {
  foresee([&](KernelTarget& target) { conv_of_places(target, whole, 0); });
  const int64_t bytes = 16 * whole.out_c * whole.c * byte_size(whole.type);
  call("conv (own)", std::move(detail), bytes, [=, e = &engine_](const Workspace& workspace) {
    return [=] { conv_of_places(e->kernel_target(), whole, workspace.address); };
  });
}

}  // namespace sinter::cuda
