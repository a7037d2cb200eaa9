#include "backends/cuda/thin_conv_steps.h"

#include "backends/cuda/kernels/thin_conv.h"
#include "backends/cuda/launch_steps.h"

namespace sinter::cuda {

ConvCall conv_call(const ConvStep& step) {
  ConvCall call{.c = step.c, .out_c = step.out_c, .kernel_h = int(step.kernel_h), .kernel_w = int(step.kernel_w)};
  call.stride = int(step.stride);
  call.pad_top = int(step.top), call.pad_left = int(step.left), call.pad_bottom = int(step.bottom),
  call.pad_right = int(step.right);
  call.type = step.in_type, call.epilogue.out_type = call.epilogue.bias_type = step.tail->out_type;
  return call;
}

std::optional<ConvCall> thin_conv_call(const ConvStep& step, const DeviceInfo& device) {
  // What computes filters in a run may still be busy when the kernel reads them.
  if (!step.tail || step.tail->adds || step.doubled || step.computed) return {};
  const ConvCall call = conv_call(step);
  if (thin_conv_module(call, device).empty()) return {};
  return call;
}

std::string thin_conv_module(const ConvStep& step, const DeviceInfo& device) {
  const auto call = thin_conv_call(step, device);
  return call ? thin_conv_module(*call, device) : "";
}

bool LaunchBuilder::add_thin_conv(const Instance& in, const ConvStep& step) {
  const DeviceInfo& device = engine_.context().device();
  auto found = thin_conv_call(step, device);
  if (!found) return false;
  ConvCall& call = *found;
  call.n = in(step.n), call.h = in(step.h), call.w = in(step.w);
  call.in = address(in, step.in, step.in_type), call.filters = weights_.get(in.unit, in.prefix, step.weight);
  call.epilogue.out = address(in, step.out, step.tail->out_type);
  if (step.tail->bias >= 0) call.epilogue.bias = weights_.get(in.unit, in.prefix, step.tail->bias);
  if (!why_no_thin_conv(call, device).empty()) return false;
  std::string detail = fmt::format("{} x {} x {} x {} -> {}, windows {} x {}", call.n, call.h, call.w, call.c, call.out_c,
                                   call.kernel_h, call.kernel_w);
  launch_own("conv", std::move(detail), [call](KernelTarget& target) { thin_conv(target, call); });
  return true;
}

}  // namespace sinter::cuda
