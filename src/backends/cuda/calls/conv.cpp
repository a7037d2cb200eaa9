#include "backends/cuda/calls/conv.h"

#include <algorithm>
#include <chrono>
#include <optional>

#include "backends/cuda/calls/contest.h"
#include "backends/cuda/calls/conv_graph.h"
#include "backends/cuda/calls/own_call.h"
#include "backends/cuda/calls/tuning.h"
#include "backends/cuda/kernels/split_product.h"
#include "backends/cuda/kernels/tile_taps.h"
#include "backends/cuda/kernels/tile_window.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

/// Part of what choices between the library and tile windows are stored under: raise it when their kernels change.
constexpr std::string_view kTileWindows = "6";
/// From which tile_share() on a tile window is taken without asking the library. Measured against cuDNN's best of eight, at
/// shares of 0.97: on an H100 tiles of 160 columns 1.11 to 1.44 times as fast, tiles of 80 1.19 to 1.21 (by 2 pixels 1.03), tiles
/// of 128 0.93 to 1.08 times; on an H200, before pixels came once for all taps, tiles of 128 with a residual 1.04 to 1.24
/// and 1.17 to 1.87 to twice the size with a bias. At 0.48 it is 0.58 to 0.72.
constexpr double kWideShare = 0.85, kNarrowShare = 0.9;
/// From which number of products for each result on one that can be split along them is, untimed: measured on an H100 against
/// cuDNN's best of eight 1.3 to 1.6 times as fast from 11520 on, 1.02 to 1.2 from 5120 to 5760.
constexpr int64_t kManyProducts = 5120;
/// From which tile_taps_share() on tile taps are worth their time, and from which on they are taken untimed: measured on an H100
/// at 0.84 to 0.95, 1.02 to 1.32 times as fast as cuDNN's best of eight.
constexpr double kTapsTimed = 0.5, kTapsShare = 0.8;
/// From which tile_share() on a tile window is about as fast as the library's kernel where all its tiles are made at once, as
/// that leaves as much of the device idle then, and where its result is of twice the size: measured on an H100 at 0.48 to 0.60,
/// 0.97 to 1.12, and at 0.60 to 0.68, 1.08 to 1.66 times as fast.
constexpr double kOneRoundShare = 0.45, kDoubledShare = 0.55;

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

bool is_window(const ConvShape& s) {
  if (s.axes.size() != 2 || s.silu || s.axes[0].stride != s.axes[1].stride) return false;
  return std::all_of(s.axes.begin(), s.axes.end(), [](const ConvAxis& a) { return a.dilation == 1; });
}

TileWindowCall window_call(const ConvShape& s, const ConvBuffers& b) {
  const ConvAxis &h = s.axes[0], &w = s.axes[1];
  TileWindowCall call{.n = s.n, .h = h.in, .w = w.in, .c = s.c, .out_c = s.out_c};
  call.type = s.type, call.doubles = s.doubles;
  if (!s.doubles) {
    call.kernel_h = h.kernel, call.kernel_w = w.kernel, call.stride = h.stride;
    call.top = h.pad_before, call.bottom = h.pad_after, call.left = w.pad_before, call.right = w.pad_after;
  }
  call.in = b.in, call.filters = b.weights, call.out = b.out;
  if (s.bias) call.bias = b.bias;
  if (s.residual) call.residual = b.residual;
  call.shortcut = {.c = s.shortcut_c, .pixel_stride = s.shortcut_stride, .in = b.shortcut_in, .filters = b.shortcut_weights};
  if (s.shortcut_bias) call.shortcut.bias = b.shortcut_bias;
  call.early_weights = b.early_weights;
  return call;
}

/// The split product that should be fastest, where one should be faster than the library's kernel.
std::optional<int> expected_split(const ConvShape& s, const DeviceInfo& device) {
  const std::vector<int> forms = split_candidates(window_call(s, {}), device);
  if (forms.empty() || s.products() < kManyProducts) return {};
  return kFirstSplitForm + forms.front();
}

int columns_of(int window_form) { return window_forms()[size_t(window_form)].columns; }

/// Removes forms whose tiles lose more of the result's columns than a twentieth beyond what others lose: of 320 there stay those
/// of 160 and 80, of 512 those of 128.
template <class Columns>
void keep_suitable(std::vector<int>& forms, int64_t out_c, const Columns& columns) {
  auto used = [&](int form) { return double(out_c) / double(round_up(out_c, int64_t(columns(form)))); };
  double most = 0;
  for (int form : forms) most = std::max(most, used(form));
  std::erase_if(forms, [&](int form) { return used(form) < 0.95 * most; });
}
std::vector<int> suitable_windows(int64_t out_c, bool doubles) {
  std::vector<int> forms = tile_window_forms(doubles);
  keep_suitable(forms, out_c, columns_of);
  return forms;
}

/// Of tile windows the one that should be fastest, and whether it should be as fast as the library's kernel.
int best_window(const ConvShape& s, const DeviceInfo& device) {
  return best_tile_form(window_call(s, {}), device.multiprocessors);
}
bool window_should_win(const ConvShape& s, const DeviceInfo& device) {
  const int form = best_window(s, device);
  return tile_share(window_call(s, {}), form, device.multiprocessors) >= (columns_of(form) > 128 ? kWideShare : kNarrowShare);
}

/// Forms of tile taps whose tiles lose less than those of tile windows, where these lose too much to be taken untimed.
std::vector<int> taps_candidates(const ConvShape& s, const DeviceInfo& device, double least_share = kTapsTimed) {
  const TileWindowCall call = window_call(s, {});
  std::vector<int> forms;
  if (!is_window(s) || !why_no_tile_taps(call, device).empty() || window_should_win(s, device)) return forms;
  const double windows = tile_share(call, best_window(s, device), device.multiprocessors);
  auto share = [&](int form) { return tile_taps_share(call, form, device.multiprocessors); };
  for (int form : tile_taps_forms())
    if (share(form) >= least_share && share(form) > windows) forms.push_back(form);
  std::stable_sort(forms.begin(), forms.end(), [&](int a, int b) { return share(a) > share(b); });
  for (int& form : forms) form += kFirstTapsForm;
  return forms;
}

/// Of all of ours the one that should be fastest.
int expected_form(const ConvShape& s, const DeviceInfo& device) {
  if (const auto split = expected_split(s, device)) return *split;
  const std::vector<int> taps = taps_candidates(s, device, kTapsShare);
  return taps.empty() ? best_window(s, device) : taps.front();
}

/// The kernel of one of our forms.
std::string kernel_of(const ConvShape& s, int form, int multiprocessors) {
  const TileWindowCall call = window_call(s, {});
  if (is_split(form)) return split_product_without_maps(call, form - kFirstSplitForm).kernel;
  if (is_taps(form)) return tile_taps_without_maps(call, form - kFirstTapsForm, multiprocessors).kernel;
  return tile_window_without_maps(call, form, multiprocessors).kernel;
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
  Kernels& kernels = *vendor_->kernels();
  const TileWindowCall call = window_call(shape_, buffers);
  if (is_split(tile_form_))
    return std::make_unique<OwnCall<SplitWindow>>(kernels, split_product(call, tile_form_ - kFirstSplitForm));
  const int multiprocessors = vendor_->context().device().multiprocessors;
  if (is_taps(tile_form_))
    return std::make_unique<OwnCall<TileTaps>>(kernels, tile_taps(call, tile_form_ - kFirstTapsForm, multiprocessors));
  return std::make_unique<OwnCall<TileWindow>>(kernels, tile_window(call, tile_form_, multiprocessors));
}

std::string why_no_tile_window(const ConvShape& s, const DeviceInfo& device) {
  return is_window(s) ? why_no_tile_window(window_call(s, {}), device) : fmt::format("there is no tile window for {}", s.text());
}

std::vector<int> own_conv_forms(const ConvShape& s, const DeviceInfo& device) {
  std::vector<int> forms = suitable_windows(s.out_c, s.doubles);
  for (int form : taps_candidates(s, device)) forms.push_back(form);
  for (int form : split_candidates(window_call(s, {}), device)) forms.push_back(kFirstSplitForm + form);
  return forms;
}

std::string own_conv_name(const ConvShape& s, int form) {
  const WindowKind kind = window_call(s, {}).kind();
  const std::string module = is_split(form)  ? split_module(form - kFirstSplitForm, s.type, kind)
                             : is_taps(form) ? tile_taps_module(form - kFirstTapsForm, s.type)
                                             : tile_window_module(form, s.type, kind);
  return module.substr(0, module.rfind('_'));
}

std::vector<std::string> tile_window_modules(DType type, int64_t out_c, WindowKind kind, const DeviceInfo& device) {
  const ConvShape shape{.c = 8, .out_c = 8, .axes = {{.in = 1}, {.in = 1}}, .type = type};
  if (!why_no_tile_window(shape, device).empty()) return {};
  std::vector<std::string> modules;
  for (int form : suitable_windows(out_c, kind == WindowKind::Doubles)) modules.push_back(tile_window_module(form, type, kind));
  return modules;
}

std::vector<std::string> tile_taps_modules(DType type, int64_t out_c, const DeviceInfo& device) {
  const TileWindowCall call{.h = 1, .w = 1, .c = 8, .out_c = 8, .type = type};
  if (!why_no_tile_taps(call, device).empty()) return {};
  std::vector<int> forms = tile_taps_forms();
  keep_suitable(forms, out_c, [](int form) { return tile_forms()[size_t(form)].columns; });
  std::vector<std::string> modules;
  for (int form : forms) modules.push_back(tile_taps_module(form, type));
  return modules;
}

bool own_conv_should_win(const ConvShape& s, const DeviceInfo& device) {
  if (!why_no_tile_window(s, device).empty()) return false;
  return expected_split(s, device) || window_should_win(s, device) || !taps_candidates(s, device, kTapsShare).empty();
}

bool own_conv_should_do(const ConvShape& s, const DeviceInfo& device) {
  if (!why_no_tile_window(s, device).empty()) return false;
  if (own_conv_should_win(s, device)) return true;
  const TileWindowCall call = window_call(s, {});
  const int form = best_window(s, device);
  const double share = tile_share(call, form, device.multiprocessors);
  if (s.doubles) return share >= kDoubledShare;
  return share >= kOneRoundShare && tile_rounds(call, form, device.multiprocessors) == 1;
}

/// Chooses between the library's convolution, with a pass that adds the residual where it does not, and tile windows.
class ConvPlanner {
 public:
  ConvPlanner(Vendor& vendor, const ConvShape& shape)
      : vendor_(vendor),
        shape_(shape),
        has_own_(vendor.kernels() && why_no_tile_window(shape, vendor.context().device()).empty()),
        contest_(vendor, "conv or window", shape.text(), cudnn_contest_facts(vendor, "tile windows", kTileWindows)) {}

  Planned<ConvPlan> plan(const TuneOn<ConvBuffers>* tune) {
    if (!has_own_) return library(tune);
    const std::optional<Winner> stored = find();
    if (stored && stored->is_own()) return {own(stored->form, stored->choice), {}};
    if (stored || (!tune && !own_conv_should_do(shape_, device()))) {
      auto planned = library(tune);
      return planned ? planned : Planned<ConvPlan>{own(expected_form(shape_, device()), {}), {}};
    }
    return tune ? fastest(*tune) : Planned<ConvPlan>{own(expected_form(shape_, device()), {}), {}};
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
    for (int form : taps_candidates(shape_, device()))
      if (!stored || stored->form == form) vendor_.kernels()->begin_kernel(kernel_of(shape_, form, device().multiprocessors));
  }

  std::shared_ptr<ConvPlan> own(int form, const Choice& choice) {
    vendor_.kernels()->function(kernel_of(shape_, form, device().multiprocessors));
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
