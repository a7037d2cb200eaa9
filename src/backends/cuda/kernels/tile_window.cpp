#include "backends/cuda/kernels/tile_window.h"

#include <algorithm>
#include <array>
#include <limits>

#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kRows = device::kTileRows, kDepth = device::kTileDepth, kSide = device::kPatchSide;
constexpr std::array<device::WindowForm, 3> kForms = {{{160}, {128}, {80}}};

constexpr int64_t kPlaces = 4;  // where it doubles, each with a window and as many pixels as the picture

/// What the tiles multiply.
struct Covered {
  int64_t h, w, kernel_h, kernel_w, stride;
  int64_t patches_x, patches_y;
  int64_t tiles;           // where it doubles those of a place, even: two blocks share filters, which places do not
  int64_t part_h, part_w;  // taps of the largest part

  explicit Covered(const TileWindowCall& c)
      : h(c.doubles ? c.h : c.out_h()),
        w(c.doubles ? c.w : c.out_w()),
        kernel_h(c.doubles ? 2 : c.kernel_h),
        kernel_w(c.doubles ? 2 : c.kernel_w),
        stride(c.doubles ? 1 : c.stride),
        patches_x(divide_up(w, kSide)),
        patches_y(divide_up(h, kSide)),
        tiles(divide_up(c.n * patches_y * patches_x, device::kTilePatches)),
        part_h(std::min<int64_t>(device::kPartSide, divide_up(kernel_h, stride))),
        part_w(std::min<int64_t>(device::kPartSide, divide_up(kernel_w, stride))) {
    if (c.doubles) tiles = round_up(tiles, 2);
  }
  int64_t taps() const { return kernel_h * kernel_w; }
  /// Of the sums that make one result.
  int64_t steps(const TileWindowCall& c) const { return taps() * divide_up(c.c, kDepth) + divide_up(c.shortcut.c, kDepth); }
  /// Rows and columns of a box of pixels.
  int64_t box_h() const { return kSide + part_h - 1; }
  int64_t box_w() const { return kSide + part_w - 1; }
  int64_t patch_bytes() const { return box_h() * box_w() * kDepth * 2; }
  /// Where parts begin along an axis.
  std::vector<int64_t> first_taps(int64_t kernel) const {
    std::vector<int64_t> first;
    for (int64_t phase = 0; phase < std::min(stride, kernel); ++phase)
      for (int64_t tap = phase; tap < kernel; tap += device::kPartSide * stride) first.push_back(tap);
    return first;
  }
  int64_t part_taps(int64_t first, int64_t kernel) const {
    return std::min<int64_t>(device::kPartSide, divide_up(kernel - first, stride));
  }
  std::vector<uint32_t> parts() const {
    std::vector<uint32_t> parts;
    for (int64_t y : first_taps(kernel_h))
      for (int64_t x : first_taps(kernel_w)) {
        const device::WindowPart part{int(x), int(y), int(part_taps(x, kernel_w)), int(part_taps(y, kernel_h))};
        parts.push_back(part.packed());
      }
    return parts;
  }
};

/// The product that it is: what tile products ask of sizes, addresses and the device holds here too.
TileProductCall product_of(const TileWindowCall& c) {
  const Covered covered(c);
  TileProductCall product{
      .m = covered.tiles * (c.doubles ? kPlaces : 1) * kRows, .n = c.out_c, .k = covered.steps(c) * kDepth, .type = c.type};
  product.a = c.in, product.weights = c.filters, product.out = c.out, product.bias = c.bias, product.residual = c.residual;
  product.early_weights = c.early_weights;
  return product;
}

int64_t pairs_of_tiles(const TileProductCall& product, int form) {
  return divide_up(product.m, 2 * kRows) * divide_up(product.n, int64_t(kForms.at(size_t(form)).columns));
}

/// What is added to the arguments of a window that has no shortcut.
void add_shortcut(TileWindow& made, const TileWindowCall& c, const device::WindowForm& form) {
  const int64_t steps = divide_up(c.shortcut.c, kDepth), from = round_up(c.c, kDepth);
  const int64_t slots = form.pixel_bytes() / device::kShortcutSlotBytes;
  auto& shortcut = made.shortcut.emplace();
  shortcut.arguments = {.bias = c.shortcut.bias,
                        .from = int(from),
                        .odd = steps % 2 ? int(from + (steps - 1) * kDepth) : -1,
                        .tile_slots = int(2 * made.window.tile_parts + round_up(steps, 2))};
  made.window.tile_parts += int(steps);
  made.window.slots = int(std::min<int64_t>(slots, device::kMostSlots) / 2 * 2);
  const int64_t stride = c.shortcut.stride();
  shortcut.operands.a = {.at = c.shortcut.in,
                         .type = c.type,
                         .sizes = {c.shortcut.c, c.out_w(), c.out_h(), c.n},
                         .strides = {stride, c.out_w() * stride, c.out_h() * c.out_w() * stride},
                         .box = {kDepth, kSide, kSide, 1}};
  shortcut.operands.weights = shortcut_filters(c, form.columns / 2);
}

}  // namespace

std::string why_no_shortcut(const TileWindowCall& c) {
  const TileShortcut& s = c.shortcut;
  if (s.c == 0) return {};
  if (c.doubles) return "there are no shortcuts where the result is of twice the size";
  if (s.c < 0 || s.c % 8) return fmt::format("shortcuts take channels by 8, not {}", s.c);
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 4;
  if (s.c > kMost || s.stride() > kMost) return "too large for a shortcut";
  if ((s.in | s.filters) % 16 || s.bias % 4 || s.stride() % 8 || s.stride() < s.c)
    return "shortcuts need addresses and pixels at multiples of 16 bytes";
  return {};
}

TiledArray window_filters(const TileWindowCall& c, int64_t filters) {
  constexpr int64_t kTapsOfFour = 16;
  const int64_t taps = c.kernel_h * c.kernel_w;
  TiledArray made{.at = c.filters, .type = c.type};
  if (c.doubles) {
    made.sizes = {c.out_c, kTapsOfFour, c.c}, made.strides = {c.out_c, kTapsOfFour * c.out_c};
    made.box = {kDepth, 1, kDepth};
  } else {
    // Three axes, not the two of a product's weights: steps may reach beyond a tap's channels.
    made.sizes = {c.c, taps, c.out_c}, made.strides = {c.c, taps * c.c};
    made.box = {kDepth, 1, filters};
  }
  return made;
}

TiledArray shortcut_filters(const TileWindowCall& c, int64_t filters) {
  return {.at = c.shortcut.filters,
          .type = c.type,
          .sizes = {c.shortcut.c, 1, c.out_c},
          .strides = {c.shortcut.c, c.shortcut.c},
          .box = {kDepth, 1, filters}};
}

std::string why_no_tile_window(const TileWindowCall& c, const DeviceInfo& device) {
  constexpr int64_t kMostSteps = 8, kMostSide = 64;  // steps: of the copying unit's boxes
  if (c.c % 8) return fmt::format("tile windows take channels by 8, not {}", c.c);
  if (c.stride > kMostSteps) return fmt::format("there are no tile windows {} pixels apart", c.stride);
  if (std::max(c.kernel_h, c.kernel_w) > kMostSide || Covered(c).parts().size() > device::kMostParts)
    return fmt::format("a window of {} x {} pixels, {} apart, has too many parts for tile windows", c.kernel_h, c.kernel_w,
                       c.stride);
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 4;
  if (std::max(c.n * c.out_h() * c.out_w(), c.n * c.h * c.w) > kMost) return "too large for a tile window";
  if (const std::string why = why_no_shortcut(c); !why.empty()) return why;
  return why_no_tile_product(product_of(c), device);
}

std::span<const device::WindowForm> window_forms() { return kForms; }

std::vector<int> tile_window_forms(bool doubles) {
  std::vector<int> forms;
  // Filters of doubling windows are multiplied in pieces of 64 columns.
  for (int form = 0; form < int(kForms.size()); ++form)
    if (!doubles || kForms[size_t(form)].columns == 2 * kDepth) forms.push_back(form);
  return forms;
}

int64_t tile_rounds(const TileWindowCall& c, int form, int multiprocessors) {
  return divide_up(pairs_of_tiles(product_of(c), form), int64_t(multiprocessors / 2));
}

double tile_share(const TileWindowCall& c, int form, int multiprocessors) {
  const TileProductCall product = product_of(c);
  const int64_t columns = kForms.at(size_t(form)).columns, at_once = multiprocessors / 2 * 2;
  const double made = double(tile_rounds(c, form, multiprocessors) * at_once * kRows * columns) * double(product.k);
  return double(c.n * c.out_h() * c.out_w() * c.out_c) * double(Covered(c).taps() * c.c + c.shortcut.c) / made;
}

int best_tile_form(const TileWindowCall& c, int multiprocessors) {
  // On an H100, of what tiles of 160 columns make in a time where all fill the device.
  constexpr double kRateOf128 = 0.99, kRateOf80 = 0.85;
  auto rate = [&](int form) {
    const int columns = kForms[size_t(form)].columns;
    return tile_share(c, form, multiprocessors) * (columns > 128 ? 1 : columns > 80 ? kRateOf128 : kRateOf80);
  };
  const std::vector<int> forms = tile_window_forms(c.doubles);
  return *std::max_element(forms.begin(), forms.end(), [&](int a, int b) { return rate(a) < rate(b); });
}

std::string tile_window_module(int form, DType type, WindowKind kind) {
  constexpr std::array<std::string_view, 3> kNames = {"window", "shortcut", "doubled"};
  return fmt::format("tile_{}_{}_{}", kNames.at(size_t(kind)), kForms.at(size_t(form)).columns, name(type));
}

TileWindow tile_window_without_maps(const TileWindowCall& c, int number, int multiprocessors) {
  const Covered covered(c);
  const TileProductCall product = product_of(c);
  const device::WindowForm& form = kForms.at(size_t(number));
  const std::vector<uint32_t> parts = covered.parts();
  const int64_t slots = form.pixel_bytes() / (device::kTilePatches * covered.patch_bytes());
  TileWindow made;
  made.kernel = tile_window_module(number, c.type, c.kind()) + "__plain";
  made.shape = {.grid = {uint32_t(2 * std::min<int64_t>(pairs_of_tiles(product, number), multiprocessors / 2))},
                .block = {uint32_t(device::kTileThreads)},
                .shared_bytes = uint32_t(form.shared_bytes())};
  made.product = product_arguments(product);
  made.window = {.kernel_w = int(covered.kernel_w),
                 .stride = int(covered.stride),
                 .left = int(c.left),
                 .top = int(c.top),
                 .width = int(covered.w),
                 .height = int(covered.h),
                 .pictures = int(c.n),
                 .patches_x = int(covered.patches_x),
                 .patches_y = int(covered.patches_y),
                 .place_tiles = int(covered.tiles),
                 .parts = int(parts.size()),
                 .tile_parts = int(int64_t(parts.size()) * divide_up(c.c, kDepth)),
                 .pitch = int(covered.box_w()),
                 .patch_bytes = int(covered.patch_bytes()),
                 .slots = int(std::min<int64_t>(slots, device::kMostSlots))};
  std::copy(parts.begin(), parts.end(), made.window.part);
  made.operands.a = {.at = c.in,
                     .type = c.type,
                     .sizes = {c.c, c.w, c.h, c.n},
                     .strides = {c.c, c.w * c.c, c.h * c.w * c.c},
                     .box = {kDepth, covered.box_w() * covered.stride, covered.box_h() * covered.stride, 1},
                     .steps = {1, covered.stride, covered.stride, 1}};
  made.operands.weights = window_filters(c, form.columns / 2);
  if (c.shortcut.c > 0) add_shortcut(made, c, form);
  return made;
}

TileWindow tile_window(const TileWindowCall& call, int form, int multiprocessors) {
  TileWindow made = tile_window_without_maps(call, form, multiprocessors);
  describe(made.operands);
  if (made.shortcut) describe(made.shortcut->operands);
  return made;
}

}  // namespace sinter::cuda
