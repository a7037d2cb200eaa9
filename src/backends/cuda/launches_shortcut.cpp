#include <tuple>

#include "backends/cuda/calls/shortcut.h"
#include "backends/cuda/launch_steps.h"
#include "backends/cuda/shortcut_steps.h"
#include "backends/cuda/thin_conv_steps.h"

namespace sinter::cuda {
namespace {

struct Range {
  DevicePtr begin = 0, end = 0;
  Range(DevicePtr at, int64_t rows, int64_t stride, int64_t columns, DType type)
      : begin(at), end(at + DevicePtr(((rows - 1) * stride + columns) * byte_size(type))) {}
  bool is_apart_from(const Range& other) const { return end <= other.begin || other.end <= begin; }
};

}  // namespace

struct LaunchBuilder::ShortcutCandidates {
  ConvShape whole, conv;
  ConvBuffers whole_buffers, conv_buffers;
  LinearShape linear;
  LinearBuffers linear_buffers;
};

/// Where candidates are timed, the two calls apart compete, each of them the best of its own.
bool LaunchBuilder::shortcut_is_faster(const ShortcutCandidates& c) {
  const bool tune = engine_.options().tune;
  const DeviceInfo& device = engine_.context().device();
  if (const auto stored = stored_shortcut_choice(engine_.vendor(), c.whole)) return *stored;
  if (!tune) return shortcut_should_win(c.whole, device);
  if (collecting_ || !shortcut_may_win(c.whole)) return false;  // the first walk prepares both calls, should they be wanted
  const auto whole = vendor_plan("conv", c.whole, c.whole_buffers, plan_conv, tune);
  const auto conv = vendor_plan("conv", c.conv, c.conv_buffers, plan_conv, tune);
  const auto linear = vendor_plan("linear", c.linear, c.linear_buffers, plan_linear, tune);
  if (!whole || !conv || !linear) return false;
  const Workspace workspace = tuning_workspace();
  if (std::max(conv->workspace_bytes(), linear->workspace_bytes()) > workspace.bytes) return false;
  const auto one = whole->bind(c.whole_buffers, workspace), first = conv->bind(c.conv_buffers, workspace),
             second = linear->bind(c.linear_buffers, workspace);
  return time_shortcut(engine_.vendor(), c.whole, {*one, *first, *second}, engine_.stream());
}

bool LaunchBuilder::add_shortcut(const Instance& in) {
  const DeviceInfo& device = engine_.context().device();
  const auto steps = shortcut_steps(in.unit.program, in.step);
  if (!steps || !rows_are_pixels(*steps, in.bindings) || !thin_conv_module(*steps->conv, device).empty()) return false;
  ShortcutCandidates c;
  c.conv = conv_shape(in, *steps->conv);
  if (c.conv.n * c.conv.out_pixels() == 0) return false;
  c.conv_buffers = conv_buffers(in, *steps->conv);
  std::tie(c.linear, c.linear_buffers) = linear_call(in, *steps->linear);
  const LinearBuffers& l = c.linear_buffers;
  c.linear.lower_alignment({l.a, l.weights, l.out, l.bias, l.residual});
  if (!why_no_shortcut(c.conv, c.linear, device).empty()) return false;
  c.whole = with_shortcut(c.conv, c.linear), c.whole_buffers = with_shortcut(c.conv_buffers, l);
  // What the convolution read was free when the linear layer wrote its result, which may lie there.
  const ConvBuffers& b = c.whole_buffers;
  const int64_t pixels = c.linear.m, channels = c.whole.c, more = c.whole.shortcut_c;
  const Range out(b.out, pixels, c.whole.out_c, c.whole.out_c, c.whole.type);
  const Range picture(b.in, c.whole.n * c.whole.axes[0].in * c.whole.axes[1].in, channels, channels, c.whole.type);
  const Range other(b.shortcut_in, pixels, c.whole.shortcut_stride, more, c.whole.type);
  if (!out.is_apart_from(picture) || !out.is_apart_from(other) || !shortcut_is_faster(c)) return false;
  return add_vendor_call("conv", c.whole, b, plan_conv, prepare_conv, engine_.options().tune).why_none.empty();
}

}  // namespace sinter::cuda
