#include "backends/cuda/kernels/split_product.h"

#include <algorithm>
#include <array>
#include <bit>
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

constexpr int64_t kPlaces = 4, kDoublingTaps = 4;  // of a result of twice the size, and of each place
int64_t taps(const TileWindowCall& c) { return c.doubles ? kDoublingTaps : c.kernel_h * c.kernel_w; }

/// The pixels of the result that are a tile's rows: powers of two whose product is the rows of a tile.
struct Box {
  int64_t w = 1, h = 1, n = 1;
};
/// The boxes of a convolution: of such that the fewest cover the pictures, the widest. Where it doubles, those of a place.
struct Boxes {
  int64_t width, height;  ///< of the pictures that are covered
  Box box;
  int64_t x = 0, y = 0, n = 0;  ///< how many boxes
  int64_t count() const { return x * y * n; }

  explicit Boxes(const TileWindowCall& c) : width(c.doubles ? c.w : c.out_w()), height(c.doubles ? c.h : c.out_h()) {
    for (int64_t w = kRows; w > 0; w /= 2)
      for (int64_t h = kRows / w; h > 0; h /= 2) {
        Boxes other = *this;
        other.box = {w, h, kRows / (w * h)};
        other.x = divide_up(width, w), other.y = divide_up(height, h), other.n = divide_up(c.n, other.box.n);
        if (count() == 0 || other.count() < count()) *this = other;
      }
  }
};

int logarithm(int64_t power_of_two) { return std::countr_zero(uint64_t(power_of_two)); }

/// The product that a convolution is made as, rows of boxes that reach beyond the pictures counted, k filled up to whole steps.
TileProductCall as_product(const TileWindowCall& c) {
  const int64_t boxes = Boxes(c).count() * (c.doubles ? kPlaces : 1);
  TileProductCall product{.m = boxes * kRows, .n = c.out_c, .type = c.type};
  product.k = taps(c) * round_up(c.c, kDepth) + round_up(c.shortcut.c, kDepth);
  product.a = c.in, product.weights = c.filters, product.out = c.out, product.bias = c.bias, product.residual = c.residual;
  product.early_weights = c.early_weights;
  return product;
}

int64_t clusters(int64_t m, int64_t n, const SplitForm& form) {
  return divide_up(m, kRows * form.rows) * divide_up(n, int64_t(form.columns));
}
/// How many clusters of a form are on a device at once, as one with 132 multiprocessors says: they lie in groups of 16 or 18, and
/// no cluster in two groups.
int64_t clusters_at_once(const SplitForm& form, int multiprocessors) {
  constexpr std::array<int64_t, 9> kOf132 = {0, 132, 66, 39, 30, 22, 17, 15, 15};
  return kOf132[size_t(form.blocks())] * multiprocessors / 132;
}

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

/// The least that is worth timing.
constexpr double kLeastShare = 0.4;
constexpr int64_t kLeastK = 1024;

template <class Call>
std::vector<int> candidates(const Call& call, int64_t k, const DeviceInfo& device) {
  std::vector<int> forms;
  if (k < kLeastK) return forms;
  for (int form = 0; form < int(kForms.size()); ++form)
    if (why_no_split_product(call, form, device).empty() && split_share(call, form, device.multiprocessors) >= kLeastShare)
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
  constexpr int64_t kMostElements = 256;  // of the copying unit's boxes
  const SplitForm& form = form_of(number);
  if (form.doubles != call.doubles) return "this form is not for convolutions to such a size";
  if (const std::string why = why_no_tile_window(call, device); !why.empty()) return why;
  const Box box = Boxes(call).box;
  if (std::max(box.w, box.h) * call.stride > kMostElements)
    return fmt::format("there are no split windows {} pixels apart", call.stride);
  return why_none(as_product(call), form, device);
}

double split_share(const TileProductCall& call, int number, int multiprocessors) {
  const SplitForm& form = form_of(number);
  const int64_t count = clusters(call.m, call.n, form);
  if (count > clusters_at_once(form, multiprocessors)) return 0;
  return double(call.m * call.n * form.parts) / double(kRows * form.columns * multiprocessors);
}

double split_share(const TileWindowCall& c, int form, int multiprocessors) {
  const TileProductCall product = as_product(c);
  const double used =
      double(c.n * c.out_h() * c.out_w()) / double(product.m) * (double(taps(c) * c.c + c.shortcut.c) / double(product.k));
  return used * split_share(product, form, multiprocessors);
}

double split_microseconds(const TileProductCall& call, int number, int multiprocessors) {
  // Measured on an H100 (bench/NOTES.md): what does not depend on k, most of it the exchange, which takes long for wide tiles of
  // many parts; a step; and what memory gives.
  constexpr std::array<double, 4> kFixed = {5.0, 3.2, 7.4, 7.4}, kStep = {0.31, 0.31, 0.46, 0.46};
  constexpr double kBytesPerMicrosecond = 2.85e6;
  if (split_share(call, number, multiprocessors) == 0) return std::numeric_limits<double>::infinity();
  const int64_t steps = divide_up(divide_up(call.k, kDepth), int64_t(form_of(number).parts));
  const double weights = double(call.n * call.k * 2) * (form_of(number).doubles ? double(kPlaces) : 1);
  return kFixed[size_t(number)] + std::max(double(steps) * kStep[size_t(number)], weights / kBytesPerMicrosecond);
}

double split_microseconds(const TileWindowCall& call, int form, int multiprocessors) {
  return split_microseconds(as_product(call), form, multiprocessors);
}

std::vector<int> split_candidates(const TileProductCall& call, const DeviceInfo& device) {
  return candidates(call, call.k, device);
}
std::vector<int> split_candidates(const TileWindowCall& call, const DeviceInfo& device) {
  return candidates(call, taps(call) * call.c + call.shortcut.c, device);
}

SplitProduct split_product_without_maps(const TileProductCall& call, int number) {
  SplitProduct made = split(call, number, "matrix", WindowKind::Plain);
  auto matrix = [&](DevicePtr at, int64_t rows, int64_t stride, int64_t box_rows) {
    return TiledArray{
        .at = at, .type = call.type, .sizes = {call.k, rows}, .strides = {stride ? stride : call.k}, .box = {kDepth, box_rows}};
  };
  made.operands.a = matrix(call.a, call.m, call.a_stride, kRows);
  made.operands.weights = matrix(call.weights, call.n, call.weights_stride, form_of(number).columns / form_of(number).rows);
  return made;
}

SplitWindow split_product_without_maps(const TileWindowCall& c, int number) {
  const Boxes boxes(c);
  const Box& box = boxes.box;
  SplitWindow made;
  const int64_t weight_rows = form_of(number).columns / form_of(number).rows;
  made.product = split(as_product(c), number, "window", c.kind());
  made.window = {.channels = int(c.c),
                 .kernel_w = c.doubles ? 2 : int(c.kernel_w),
                 .stride = int(c.stride),
                 .left = int(c.left),
                 .top = int(c.top),
                 .width = int(boxes.width),
                 .height = int(boxes.height),
                 .pictures = int(c.n),
                 .box_x = logarithm(box.w),
                 .box_y = logarithm(box.h),
                 .boxes_x = int(boxes.x),
                 .boxes_y = int(boxes.y),
                 .place_boxes = int(boxes.count())};
  TiledOperands& operands = made.product.operands;
  operands.a = {.at = c.in,
                .type = c.type,
                .sizes = {c.c, c.w, c.h, c.n},
                .strides = {c.c, c.w * c.c, c.h * c.w * c.c},
                .box = {kDepth, box.w * c.stride, box.h * c.stride, box.n},
                .steps = {1, c.stride, c.stride, 1}};
  operands.weights = {.at = c.filters, .type = c.type};
  if (c.doubles) {
    operands.weights.sizes = {c.out_c, kPlaces * kDoublingTaps, c.c};
    operands.weights.strides = {c.out_c, kPlaces * kDoublingTaps * c.out_c};
    operands.weights.box = {kDepth, 1, kDepth};
  } else {
    operands.weights.sizes = {c.c, taps(c), c.out_c};
    operands.weights.strides = {c.c, taps(c) * c.c};
    operands.weights.box = {kDepth, 1, weight_rows};
  }
  if (c.shortcut.c > 0) {
    auto& shortcut = made.shortcut.emplace();
    shortcut.arguments = {.bias = c.shortcut.bias, .from = int(taps(c) * divide_up(c.c, kDepth))};
    shortcut.operands.a = shortcut_pixels(c, {kDepth, box.w, box.h, box.n});
    shortcut.operands.weights = shortcut_filters(c, weight_rows);
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
  describe(made.product.operands);
  if (made.shortcut) describe(made.shortcut->operands);
  return made;
}

}  // namespace sinter::cuda
