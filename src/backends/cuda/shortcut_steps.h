#pragma once
#include <optional>

#include "compiler/lowering/program.h"

namespace sinter::cuda {

/// A convolution and the linear layer behind it to whose result its own is added: the end of a residual block whose channels
/// change. Together they are one convolution with a shortcut (kernels/tile_window.h).
struct ShortcutSteps {
  const ConvStep* conv;
  const LinearStep* linear;
};

/// Whether step `at` and the next one are that, whatever their sizes; nothing for any other step. Nobody else wants what the
/// convolution alone gives, so it may stay unwritten.
std::optional<ShortcutSteps> shortcut_steps(const Program& program, size_t at);
/// Whether the linear layer's rows are the convolution's pixels at these sizes, and both results lie dense.
bool rows_are_pixels(const ShortcutSteps& steps, const Bindings& bindings);

}  // namespace sinter::cuda
