#include "backends/cuda/calls/shortcut.h"

#include "backends/cuda/calls/contest.h"
#include "backends/cuda/calls/own_conv.h"
#include "backends/cuda/calls/tuning.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

/// Part of what choices are stored under: raise it when the kernels change, or those that compete with them.
constexpr std::string_view kShortcuts = "1";
/// As a winner is stored.
constexpr int kTogether = 0;

Contest contest(Vendor& vendor, const ConvShape& whole) {
  Facts facts = cudnn_contest_facts(vendor, "shortcuts", kShortcuts);
  facts.emplace_back("cublaslt", vendor.cublaslt() ? vendor.cublaslt()->version_text() : "");
  return {vendor, "conv with shortcut or both apart", whole.text(), std::move(facts)};
}

}  // namespace

ConvShape with_shortcut(ConvShape conv, const LinearShape& linear) {
  conv.shortcut_c = linear.k, conv.shortcut_stride = linear.a_stride ? linear.a_stride : linear.k;
  conv.shortcut_bias = linear.epilogue == LinearEpilogue::Bias;
  return conv;
}

ConvBuffers with_shortcut(ConvBuffers conv, const LinearBuffers& linear) {
  conv.shortcut_in = linear.a, conv.shortcut_weights = linear.weights, conv.shortcut_bias = linear.bias;
  conv.out = linear.out;
  conv.early_weights = conv.early_weights && linear.early_weights;
  return conv;
}

std::string why_no_shortcut(const ConvShape& conv, const LinearShape& linear, const DeviceInfo& device) {
  if (linear.a != conv.type || linear.weights != conv.type || linear.out != conv.type || linear.compute != LinearCompute::F32)
    return "a shortcut has the types of its convolution, and sums in f32";
  if (linear.batch != 1 || linear.weights_are_kn || linear.gated || linear.epilogue == LinearEpilogue::BiasGelu ||
      !linear.residual || linear.n != conv.out_c || linear.m != conv.out_pixels() || conv.residual || conv.silu || conv.doubles ||
      (linear.weights_stride && linear.weights_stride != linear.k) || linear.alignment % 16 != 0)
    return fmt::format("{} is no shortcut of {}", linear.text(), conv.text());
  return why_no_own_conv(with_shortcut(conv, linear), device);
}

bool shortcut_may_win(const ConvShape& whole) { return whole.shortcut_c <= whole.products() - whole.shortcut_c; }

bool shortcut_should_win(const ConvShape& whole, const DeviceInfo& device) {
  return shortcut_may_win(whole) && own_conv_should_win(whole, device);
}

std::optional<bool> stored_shortcut_choice(Vendor& vendor, const ConvShape& whole) {
  const auto winner = contest(vendor, whole).find();
  return winner ? std::optional(winner->is_own()) : std::nullopt;
}

bool time_shortcut(Vendor& vendor, const ConvShape& whole, const ShortcutCalls& calls, const Stream& stream) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<double> times = time_candidates(vendor.context(), stream,
                                                    {[&] { calls.whole.launch(stream); },
                                                     [&] {
                                                       calls.conv.launch(stream);
                                                       calls.linear.launch(stream);
                                                     }});
  const int best = best_candidate(times);
  const bool together = best == 0;
  if (best >= 0)
    contest(vendor, whole)
        .keep({.form = together ? kTogether : Winner::kLibrary,
               .choice = {.microseconds = times[size_t(best)], .candidates = int(times.size())}},
              start);
  return together;
}

}  // namespace sinter::cuda
