#pragma once
#include "backends/cuda/calls/conv.h"
#include "backends/cuda/calls/linear.h"

namespace sinter::cuda {

/// A convolution whose result is added to a linear layer's, either as one kernel of ours or apart: the convolution, then the
/// linear layer with its result as residual.

/// The convolution with that shortcut. The linear layer's rows are the convolution's pixels, and both results are dense.
ConvShape with_shortcut(ConvShape conv, const LinearShape& linear);
ConvBuffers with_shortcut(ConvBuffers conv, const LinearBuffers& linear);

/// Why no kernel of ours makes both; empty where one does.
std::string why_no_shortcut(const ConvShape& conv, const LinearShape& linear, const DeviceInfo& device);
/// Whether it is worth timing: the convolution has at least as many products for each result as its shortcut.
bool shortcut_may_win(const ConvShape& whole);
/// Whether, untimed, one kernel should be faster than two calls: where a kernel of ours would be taken for the convolution with a
/// residual. Timed, it won at all 21 shapes of SD1.5, SDXL and the VAE (bench/NOTES.md).
bool shortcut_should_win(const ConvShape& whole, const DeviceInfo& device);

/// Whether one kernel was faster than two calls; nothing where that is not known.
std::optional<bool> stored_shortcut_choice(Vendor& vendor, const ConvShape& whole);
struct ShortcutCalls {
  const BoundCall &whole, &conv, &linear;
};
/// The same of calls that are timed now; kept.
bool time_shortcut(Vendor& vendor, const ConvShape& whole, const ShortcutCalls& calls, const Stream& stream);

}  // namespace sinter::cuda
