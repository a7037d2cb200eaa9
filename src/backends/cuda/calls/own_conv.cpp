#include "backends/cuda/calls/own_conv.h"

#include <algorithm>
#include <optional>

#include "backends/cuda/calls/own_call.h"
#include "backends/cuda/kernels/split_product.h"
#include "backends/cuda/kernels/tile_taps.h"
#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

/// From which tile_share() on a tile window is taken without asking the library. Measured against cuDNN's best of eight, at
/// shares of 0.97: on an H100 tiles of 160 columns 1.11 to 1.44 times as fast, tiles of 80 1.19 to 1.21 (by 2 pixels 1.03), tiles
/// of 128 0.93 to 1.08 times; on an H200, before pixels came once for all taps, tiles of 128 with a residual 1.04 to 1.24
/// and 1.17 to 1.87 to twice the size with a bias. At 0.48, of two rounds, it is 0.58 to 0.72.
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

}  // namespace

std::string why_no_own_conv(const ConvShape& s, const DeviceInfo& device) {
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

std::string own_conv_kernel(const ConvShape& s, int form, const DeviceInfo& device) {
  const TileWindowCall call = window_call(s, {});
  if (is_split(form)) return split_product_without_maps(call, form - kFirstSplitForm).kernel;
  if (is_taps(form)) return tile_taps_without_maps(call, form - kFirstTapsForm, device.multiprocessors).kernel;
  return tile_window_without_maps(call, form, device.multiprocessors).kernel;
}

std::unique_ptr<BoundCall> bind_own_conv(const Vendor& vendor, const ConvShape& s, int form, const ConvBuffers& buffers) {
  Kernels& kernels = *vendor.kernels();
  const TileWindowCall call = window_call(s, buffers);
  const int multiprocessors = vendor.context().device().multiprocessors;
  if (is_split(form)) return std::make_unique<OwnCall<SplitWindow>>(kernels, split_product(call, form - kFirstSplitForm));
  if (is_taps(form)) return std::make_unique<OwnCall<TileTaps>>(kernels, tile_taps(call, form - kFirstTapsForm, multiprocessors));
  return std::make_unique<OwnCall<TileWindow>>(kernels, tile_window(call, form, multiprocessors));
}

std::vector<std::string> tile_window_modules(DType type, int64_t out_c, WindowKind kind, const DeviceInfo& device) {
  const ConvShape shape{.c = 8, .out_c = 8, .axes = {{.in = 1}, {.in = 1}}, .type = type};
  if (!why_no_own_conv(shape, device).empty()) return {};
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
  if (!why_no_own_conv(s, device).empty()) return false;
  return expected_split(s, device) || window_should_win(s, device) || !taps_candidates(s, device, kTapsShare).empty();
}

bool own_conv_should_do(const ConvShape& s, const DeviceInfo& device) {
  if (!why_no_own_conv(s, device).empty()) return false;
  if (own_conv_should_win(s, device)) return true;
  const TileWindowCall call = window_call(s, {});
  const int form = best_window(s, device);
  const double share = tile_share(call, form, device.multiprocessors);
  if (s.doubles) return share >= kDoubledShare;
  return share >= kOneRoundShare && tile_rounds(call, form, device.multiprocessors) == 1;
}

int expected_own_conv(const ConvShape& s, const DeviceInfo& device) {
  if (const auto split = expected_split(s, device)) return *split;
  const std::vector<int> taps = taps_candidates(s, device, kTapsShare);
  return taps.empty() ? best_window(s, device) : taps.front();
}

}  // namespace sinter::cuda
