#include "backends/cuda/kernels/split_product.h"

#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kRows = device::kTileRows, kDepth = device::kTileDepth;

/// As the kernels are named.
constexpr std::array<SplitForm, 4> kForms = {{{80, 1, 6, false}, {64, 1, 4, false}, {192, 2, 4, false}, {192, 1, 4, true}}};

const SplitForm& form_of(int number) { return kForms.at(size_t(number)); }
constexpr device::SplitTile tile_of(const SplitForm& form) { return {form.columns, form.parts}; }

int64_t clusters(int64_t m, int64_t n, const SplitForm& form) {
  return divide_up(m, kRows * form.rows) * divide_up(n, int64_t(form.columns));
}
/// How many clusters of a form are on a device at once, as one with 132 multiprocessors says: they lie in groups of 16 or 18, and
/// no cluster in two groups.
int64_t clusters_at_once(const SplitForm& form, int multiprocessors) {
  constexpr std::array<int64_t, 9> kOf132 = {0, 132, 66, 39, 30, 22, 17, 15, 15};
  return kOf132[size_t(form.blocks())] * multiprocessors / 132;
}

TiledArray matrix(DType type, DevicePtr at, int64_t rows, int64_t columns, int64_t stride, int64_t box_rows) {
  return {.at = at, .type = type, .sizes = {columns, rows}, .strides = {stride ? stride : columns}, .box = {kDepth, box_rows}};
}
/// Rows of a tile's weights that one block brings.
int64_t weights_at_once(int number) { return form_of(number).columns / form_of(number).rows; }

/// What only the form decides of a call that tile products have made ready.
SplitProduct split(const TileProductCall& call, int number, std::string_view kernel, WindowKind kind) {
  const SplitForm& form = form_of(number);
  SplitProduct made;
  made.kernel = fmt::format("{}__{}", split_module(number, call.type, kind), kernel);
  made.shape = {.grid = {uint32_t(clusters(call.m, call.n, form) * form.blocks())},
                .block = {uint32_t(device::kSplitThreads)},
                .shared_bytes = uint32_t(tile_of(form).shared_bytes()),
                .cluster = uint32_t(form.blocks())};
  made.arguments = product_arguments(call);
  made.split = {.rows = form.rows};
  return made;
}

std::string why_none(const TileProductCall& call, const SplitForm& form, const DeviceInfo& device) {
  if (call.gated) return "gated products are not split";
  if (divide_up(call.k, kDepth) < form.parts) return fmt::format("{} columns are too few for {} parts", call.k, form.parts);
  return why_no_tile_product(call, device);
}

/// The least that is worth timing; where no form of a window has it, the library makes no better of so few rows, and one may.
constexpr double kLeastShare = 0.4, kLeastShareOfWindows = 0.15;
constexpr int64_t kLeastK = 1024;

template <class Call>
std::vector<int> candidates(const Call& call, int64_t k, const DeviceInfo& device, double least_share) {
  std::vector<int> forms;
  if (k < kLeastK) return forms;
  for (int form = 0; form < int(kForms.size()); ++form)
    if (why_no_split_product(call, form, device).empty() && split_share(call, form, device.multiprocessors) >= least_share)
      forms.push_back(form);
  auto sooner = [&](int a, int b) {
    return split_microseconds(call, a, device.multiprocessors) < split_microseconds(call, b, device.multiprocessors);
  };
  std::stable_sort(forms.begin(), forms.end(), sooner);
  return forms;
}

}  // namespace

std::span<const SplitForm> split_forms() { return kForms; }

std::string split_module(int number, DType type, WindowKind kind) {
  constexpr std::array<std::string_view, 3> kNames = {"product", "shortcut", "doubled"};
  const SplitForm& form = form_of(number);
  return fmt::format("split_{}_{}x{}_{}", kNames.at(size_t(kind)), form.columns, form.parts, name(type));
}

std::vector<std::string> split_modules(int64_t n, int64_t k, DType type, WindowKind kind, const DeviceInfo& device) {
  constexpr int64_t kLeastColumns = 640;  // fewer take more rows than such calls have
  const TileProductCall least{.m = 1, .n = 8, .k = kLeastK, .type = type};
  std::vector<std::string> modules;
  if (n < kLeastColumns || k < kLeastK) return modules;
  for (int form = 0; form < int(kForms.size()); ++form)
    if (form_of(form).doubles == (kind == WindowKind::Doubles) && why_none(least, form_of(form), device).empty())
      modules.push_back(split_module(form, type, kind));
  return modules;
}

std::string why_no_split_product(const TileProductCall& call, int number, const DeviceInfo& device) {
  const SplitForm& form = form_of(number);
  return form.doubles ? "this form is for convolutions to twice the size" : why_none(call, form, device);
}

std::string why_no_split_product(const TileWindowCall& call, int number, const DeviceInfo& device) {
  const SplitForm& form = form_of(number);
  if (form.doubles != call.doubles) return "this form is not for convolutions to such a size";
  if (std::string why = why_no_taps(call); !why.empty()) return why;
  if (std::string why = why_no_shortcut(call); !why.empty()) return why;
  return why_none(taps_product(call), form, device);
}

double split_share(const TileProductCall& call, int number, int multiprocessors) {
  const SplitForm& form = form_of(number);
  const int64_t count = clusters(call.m, call.n, form);
  if (count > clusters_at_once(form, multiprocessors)) return 0;
  return double(call.m * call.n * form.parts) / double(kRows * form.columns * multiprocessors);
}

double split_share(const TileWindowCall& c, int form, int multiprocessors) {
  return taps_used(c) * split_share(taps_product(c), form, multiprocessors);
}

double split_microseconds(const TileProductCall& call, int number, int multiprocessors) {
  // Measured on an H100 (bench/NOTES.md): what does not depend on k, most of it the exchange, which takes long for wide tiles of
  // many parts; a step; and what memory gives.
  constexpr std::array<double, 4> kFixed = {5.0, 3.2, 7.4, 7.4}, kStep = {0.31, 0.31, 0.46, 0.46};
  constexpr double kBytesPerMicrosecond = 2.85e6, kPlaces = 4;  // kPlaces: with filters of their own, of twice the size
  if (split_share(call, number, multiprocessors) == 0) return std::numeric_limits<double>::infinity();
  const int64_t steps = divide_up(divide_up(call.k, kDepth), int64_t(form_of(number).parts));
  const double weights = double(call.n * call.k * 2) * (form_of(number).doubles ? kPlaces : 1);
  return kFixed[size_t(number)] + std::max(double(steps) * kStep[size_t(number)], weights / kBytesPerMicrosecond);
}

double split_microseconds(const TileWindowCall& call, int form, int multiprocessors) {
  return split_microseconds(taps_product(call), form, multiprocessors);
}

std::vector<int> split_candidates(const TileProductCall& call, const DeviceInfo& device) {
  return candidates(call, call.k, device, kLeastShare);
}
std::vector<int> split_candidates(const TileWindowCall& call, const DeviceInfo& device) {
  std::vector<int> forms = candidates(call, taps_products(call), device, kLeastShare);
  if (!forms.empty()) return forms;
  std::vector<int> more = candidates(call, taps_products(call), device, kLeastShareOfWindows);
  if (more.size() > 1) more.resize(1);
  return more;
}

SplitProduct split_product_without_maps(const TileProductCall& call, int number) {
  SplitProduct made = split(call, number, "matrix", WindowKind::Plain);
  made.operands.a = matrix(call.type, call.a, call.m, call.k, call.a_stride, kRows);
  made.operands.weights = matrix(call.type, call.weights, call.n, call.k, call.weights_stride, weights_at_once(number));
  return made;
}

SplitWindow split_product_without_maps(const TileWindowCall& c, int number) {
  const TileProductCall call = taps_product(c);
  const SplitProduct product = split(call, number, "window", c.kind());
  SplitWindow made{.kernel = product.kernel,
                   .shape = product.shape,
                   .operands = taps_operands(c, weights_at_once(number)),
                   .product = product.arguments,
                   .split = product.split,
                   .taps = taps_arguments(c)};
  if (c.shortcut.c > 0) {
    auto& shortcut = made.shortcut.emplace();
    shortcut.arguments = {.bias = c.shortcut.bias, .from = int(call.k / kDepth - divide_up(c.shortcut.c, kDepth))};
    shortcut.operands.a = matrix(c.type, c.shortcut.in, call.m, c.shortcut.c, c.shortcut.stride(), kRows);
    shortcut.operands.weights = shortcut_filters(c, weights_at_once(number));
  }
  return made;
}

SplitProduct split_product(const TileProductCall& call, int form) {
  SplitProduct made = split_product_without_maps(call, form);
  describe(made.operands);
  return made;
}

SplitWindow split_product(const TileWindowCall& call, int form) {
  SplitWindow made = split_product_without_maps(call, form);
  describe(made.operands);
  if (made.shortcut) describe(made.shortcut->operands);
  return made;
}

}  // namespace sinter::cuda
