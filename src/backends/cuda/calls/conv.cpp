#include "backends/cuda/calls/conv.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "backends/cuda/calls/contest.h"
#include "backends/cuda/calls/conv_graph.h"
#include "backends/cuda/calls/own_call.h"
#include "backends/cuda/calls/own_conv.h"
#include "backends/cuda/calls/tuning.h"
#include "base/error.h"

namespace sinter::cuda {
namespace {

void check_shape(const ConvShape& s) {
  if (s.axes.size() != 2 && s.axes.size() != 3)
    fail(Code::InvalidArgument, "convolution: {} spatial axes, 2 or 3 are possible", s.axes.size());
  if (s.n < 1 || s.c < 1 || s.out_c < 1)
    fail(Code::InvalidArgument, "convolution: sizes must be positive, n {} c {} out_c {}", s.n, s.c, s.out_c);
  if (s.doubles) {
    for (const auto& a : s.axes)
      if (a.in < 1 || a.kernel != 4 || a.stride != 2 || a.pad_before != 1 || a.pad_after != 1 || a.dilation != 1)
        fail(Code::InvalidArgument, "convolution: a result of twice the size is that of windows of 4 by 2, padded by 1");
    return;
  }
  for (const auto& a : s.axes)
    if (a.kernel < 1 || a.stride < 1 || a.dilation < 1 || a.pad_before < 0 || a.pad_after < 0 || a.out() < 1 ||
        a.in + a.pad_before + a.pad_after < a.dilation * (a.kernel - 1) + 1)
      fail(Code::InvalidArgument, "convolution: a window of {} does not fit into {} padded by {} and {}", a.kernel, a.in,
           a.pad_before, a.pad_after);
}

/// What the library is asked for: a residual only where its kernel should be faster with it.
ConvShape library_shape(ConvShape s, bool timed) {
  if (s.rest_may_follow) {
    s.residual = s.residual && timed && residual_should_be_fused(s);
    s.bias = s.bias && !s.doubles;
  }
  s.rest_may_follow = false;
  return s;
}

/// Of a pass that adds what `plan` leaves out of `whole`: its launch, and how often it touches the result, at what such passes
/// reach (bench/NOTES.md).
double pass_microseconds(const ConvShape& whole, const ConvShape& plan) {
  if (plan.residual == whole.residual && plan.bias == whole.bias) return 0;
  constexpr double kLaunch = 1.5, kBytesPerMicrosecond = 4.2e6;
  const int touches = plan.residual == whole.residual ? 2 : 3;
  return kLaunch + touches * double(whole.out_pixels() * whole.out_c * byte_size(whole.type)) / kBytesPerMicrosecond;
}

}  // namespace

int64_t ConvShape::out_pixels() const {
  int64_t pixels = n;
  for (const auto& a : axes) pixels *= out_size(a);
  return pixels;
}

double ConvShape::flops() const { return 2.0 * double(out_pixels()) * double(out_c) * double(products()); }

int64_t ConvShape::products() const {
  int64_t window = c;
  for (const ConvAxis& a : axes) window *= doubles ? a.kernel / 2 : a.kernel;  // half of the taps meet each pixel
  return window + shortcut_c;
}

std::string ConvShape::text() const {
  std::string t = fmt::format("{}x{}->{} {}", n, c, out_c, name(type));
  for (const auto& a : axes) {
    t += fmt::format(" {}/{} by {}", a.in, a.kernel, a.stride);
    if (a.pad_before || a.pad_after) t += fmt::format(" pad {}+{}", a.pad_before, a.pad_after);
    if (a.dilation != 1) t += fmt::format(" dilation {}", a.dilation);
  }
  if (doubles) t += " doubles";
  if (bias) t += " bias";
  if (residual) t += " residual";
  if (silu) t += " silu";
  if (allow_tf32) t += " tf32";
  if (rest_may_follow) t += " or less";
  if (shortcut_c) t += fmt::format(", shortcut {} by {}{}", shortcut_c, shortcut_stride, shortcut_bias ? " bias" : "");
  return t;
}

std::unique_ptr<BoundCall> ConvPlan::bind(const ConvBuffers& buffers, const Workspace& workspace) const {
  auto arguments = conv_arguments(shape_, buffers);
  if (library_) return library_->bind(std::move(arguments), {}, workspace);
  return bind_own_conv(*vendor_, shape_, tile_form_, buffers);
}

/// Chooses between the library's convolution, with a pass that adds the residual where it does not, and tile windows.
class ConvPlanner {
 public:
  ConvPlanner(Vendor& vendor, const ConvShape& shape)
      : vendor_(vendor),
        shape_(shape),
        has_own_(vendor.kernels() && why_no_own_conv(shape, vendor.context().device()).empty()),
        contest_(vendor, "conv or window", shape.text(), cudnn_contest_facts(vendor, "tile windows", kOwnConvs)) {}

  Planned<ConvPlan> plan(const TuneOn<ConvBuffers>* tune) {
    if (!has_own_) return library(tune);
    const std::optional<Winner> stored = find();
    if (stored && stored->is_own()) return {own(stored->form, stored->choice), {}};
    if (stored || (!tune && !own_conv_should_do(shape_, device()))) {
      auto planned = library(tune);
      return planned ? planned : Planned<ConvPlan>{own(expected_own_conv(shape_, device()), {}), {}};
    }
    return tune ? fastest(*tune) : Planned<ConvPlan>{own(expected_own_conv(shape_, device()), {}), {}};
  }

  Prepared prepare() {
    if (has_own_) {
      const std::optional<Winner> stored = find();
      begin_taps(stored);
      if (stored ? stored->is_own() : expected_to_win()) return nullptr;
    }
    if (shape_.shortcut_c) return nullptr;
    return prepare_cudnn(vendor_, conv_request(library_shape(shape_, true)));
  }

 private:
  const DeviceInfo& device() const { return vendor_.context().device(); }
  bool expected_to_win() const { return own_conv_should_win(shape_, device()); }

  /// Begins kernels that no engine foresees: which sizes want them only calls know.
  void begin_taps(const std::optional<Winner>& stored) const {
    for (int form : own_conv_forms(shape_, device()))
      if (is_taps(form) && (!stored || stored->form == form))
        vendor_.kernels()->begin_kernel(own_conv_kernel(shape_, form, device()));
  }

  std::shared_ptr<ConvPlan> own(int form, const Choice& choice) {
    vendor_.kernels()->function(own_conv_kernel(shape_, form, device()));
    return std::make_shared<ConvPlan>(vendor_, shape_, form, choice);
  }

  Planned<ConvPlan> library(const TuneOn<ConvBuffers>* tune) {
    if (shape_.shortcut_c) return {nullptr, "only kernels of ours have shortcuts"};
    const ConvShape shape = library_shape(shape_, tune != nullptr);
    auto planned = library(shape, tune, tune ? tune->candidates : nullptr);
    if (planned || !shape.residual || !shape_.rest_may_follow) return planned;
    ConvShape without = shape;
    without.residual = false;
    return library(without, tune, nullptr);
  }
  Planned<ConvPlan> library(const ConvShape& shape, const TuneOn<ConvBuffers>* tune, Prepared candidates) {
    CudnnRequest request = conv_request(shape);
    std::optional<CudnnTuning> tuning;
    if (tune) {
      request.arguments = conv_arguments(shape, tune->buffers);
      tuning.emplace(CudnnTuning{tune->stream, tune->workspace, std::move(candidates)});
    }
    auto planned = plan_cudnn(vendor_, request, tuning ? &*tuning : nullptr);
    if (!planned) return {nullptr, planned.why_none};
    return {std::make_shared<ConvPlan>(shape, planned.plan), {}};
  }

  Planned<ConvPlan> fastest(const TuneOn<ConvBuffers>& tune) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::shared_ptr<const ConvPlan>> plans;
    // Its plans take 2.2 ms each, those with residuals 0.4 s, its first kernels 0.05 to 0.3 s to load, and timing them more.
    if (!expected_to_win())
      if (auto planned = library(&tune); planned && planned->workspace_bytes() <= tune.workspace.bytes)
        plans.push_back(planned.plan);
    const bool has_library = !plans.empty();
    for (int form : own_conv_forms(shape_, device())) plans.push_back(own(form, {}));
    std::vector<std::unique_ptr<BoundCall>> calls;
    for (const auto& plan : plans) calls.push_back(plan->bind(tune.buffers, tune.workspace));
    std::vector<double> times = time_calls(vendor_.context(), tune.stream, calls);
    if (has_library) times.front() += pass_microseconds(shape_, plans.front()->shape());
    note_times("conv or window " + shape_.text(), times);
    const int best = best_candidate(times);
    if (best < 0) return {nullptr, fmt::format("no kernel ran for {}", shape_.text())};
    const Winner winner{.form = has_library && best == 0 ? Winner::kLibrary : plans[size_t(best)]->tile_form(),
                        .choice = {.microseconds = times[size_t(best)], .candidates = int(times.size())}};
    contest_.keep(winner, start);
    if (!winner.is_own()) return {plans.front(), {}};
    return {own(winner.form, winner.choice), {}};
  }

  std::optional<Winner> find() const {
    const std::vector<int> forms = own_conv_forms(shape_, device());
    auto winner = contest_.find();
    const bool known = winner && (!winner->is_own() || std::find(forms.begin(), forms.end(), winner->form) != forms.end());
    return known ? winner : std::nullopt;
  }

  Vendor& vendor_;
  ConvShape shape_;
  bool has_own_;
  Contest contest_;
};

Planned<ConvPlan> plan_conv(Vendor& vendor, const ConvShape& s, const TuneOn<ConvBuffers>* tune) {
  check_shape(s);
  return ConvPlanner(vendor, s).plan(tune);
}

Prepared prepare_conv(Vendor& vendor, const ConvShape& s) {
  check_shape(s);
  return ConvPlanner(vendor, s).prepare();
}

bool residual_should_be_fused(const ConvShape& s) {
  constexpr double kLargeResult = double(int64_t(64) << 20), kMostFlopsPerByte = 2400;  // 3 x 3 over 256 channels have 2304
  const double bytes = double(s.out_pixels()) * double(s.out_c * byte_size(s.type));
  return byte_size(s.type) == 2 && bytes >= kLargeResult && s.flops() <= kMostFlopsPerByte * bytes;
}

std::string why_no_conv(const CudnnCalls& calls, const ConvShape& s, int capability) {
  check_shape(s);
  return why_unsupported(calls, conv_request(s), DescribedDevice::of(capability));
}

}  // namespace sinter::cuda
