#include "backends/cuda/shortcut_steps.h"

namespace sinter::cuda {
namespace {

/// Nothing but a bias, and for the linear layer the residual.
bool is_plain(const std::optional<VendorTail>& tail, bool adds) {
  return tail && !tail->gelu && !tail->gated && tail->adds == adds;
}

bool same(const Place& a, const Place& b) { return a.buffer == b.buffer && a.offset == b.offset; }

}  // namespace

std::optional<ShortcutSteps> shortcut_steps(const Program& program, size_t at) {
  const auto* conv = std::get_if<ConvStep>(&program.steps[at]);
  const auto* linear = at + 1 < program.steps.size() ? std::get_if<LinearStep>(&program.steps[at + 1]) : nullptr;
  if (!conv || !linear || !is_plain(conv->tail, false) || !is_plain(linear->tail, true)) return {};
  if (conv->doubled || conv->computed || conv->prologue || conv->epilogue || linear->epilogue || linear->parts != 1) return {};
  const DType type = conv->in_type;
  const bool of_one_type = conv->tail->out_type == type && linear->a_type == type && linear->tail->out_type == type;
  if (!of_one_type || !same(linear->tail->residual, conv->out) || linear->n != conv->out_c) return {};
  // y + linear(y) reads y twice.
  if (linear->a.buffer == conv->out.buffer) return {};
  const BufferRef& between = conv->out.buffer;
  const bool is_alone = between.space == BufferRef::temporary &&
                        program.temporaries[size_t(between.index)].first_step == int32_t(at) &&
                        program.temporaries[size_t(between.index)].last_step == int32_t(at) + 1;
  if (!is_alone && !same(linear->out, conv->out)) return {};
  return ShortcutSteps{conv, linear};
}

bool rows_are_pixels(const ShortcutSteps& steps, const Bindings& bindings) {
  const ConvStep& conv = *steps.conv;
  const LinearStep& linear = *steps.linear;
  auto size = [&](const Dim& dim) { return dim.value(bindings); };
  auto out = [&](const Dim& in, int64_t before, int64_t after, int64_t kernel) {
    return (size(in) + before + after - kernel) / conv.stride + 1;
  };
  const int64_t pixels =
      size(conv.n) * out(conv.h, conv.top, conv.bottom, conv.kernel_h) * out(conv.w, conv.left, conv.right, conv.kernel_w);
  auto is_dense = [&](const Dim& stride) { return size(stride) == conv.out_c; };
  return size(linear.batch) == 1 && size(linear.m) == pixels && is_dense(conv.out_stride) && is_dense(linear.out_stride) &&
         is_dense(linear.tail->residual_stride) && size(conv.pixel_stride) == conv.c;
}

}  // namespace sinter::cuda
