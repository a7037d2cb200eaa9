#include "backends/cuda/kernels/tile_window.h"

#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/rounding.h"

namespace sinter::cuda {
namespace {

constexpr int64_t kRows = device::kTileRows, kDepth = device::kTileDepth;

/// The pixels that boxes cover: where it doubles, those of one of four places, each of which has as many as the picture.
struct Covered {
  int64_t h, w;
  TileBox box;

  explicit Covered(const TileWindowCall& c)
      : h(c.doubles ? c.h : c.out_h()), w(c.doubles ? c.w : c.out_w()), box(tile_box(c.n, h, w)) {}
  int64_t boxes_x() const { return divide_up(w, box.w); }
  int64_t boxes_y() const { return divide_up(h, box.h); }
  int64_t boxes(int64_t n) const { return divide_up(n, box.n) * boxes_y() * boxes_x(); }
};

constexpr int64_t kPlaces = 4, kDoublingTaps = 4;  // of each place
int64_t taps(const TileWindowCall& c) { return c.doubles ? kDoublingTaps : c.kernel_h * c.kernel_w; }
/// Two blocks share a tile of the filters, which places do not.
int64_t boxes_of_place(const TileWindowCall& c) { return round_up(Covered(c).boxes(c.n), 2); }

int logarithm(int64_t power_of_two) {
  int log = 0;
  while (int64_t(1) << log < power_of_two) ++log;
  return log;
}

}  // namespace

TileBox tile_box(int64_t n, int64_t h, int64_t w) {
  TileBox best;
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (int64_t box_w = kRows; box_w > 0; box_w /= 2)
    for (int64_t box_h = kRows / box_w; box_h > 0; box_h /= 2) {
      const TileBox box{box_w, box_h, kRows / (box_w * box_h)};
      const int64_t count = divide_up(w, box.w) * divide_up(h, box.h) * divide_up(n, box.n);
      if (count < fewest) best = box, fewest = count;
    }
  return best;
}

std::string why_no_tile_window(const TileWindowCall& c, const DeviceInfo& device) {
  constexpr int64_t kMostSteps = 8, kMostElements = 256;  // of the copying unit's boxes
  if (c.c % 8) return fmt::format("tile windows take channels by 8, not {}", c.c);
  const TileBox box = Covered(c).box;
  if (c.stride > kMostSteps || std::max(box.w, box.h) * c.stride > kMostElements)
    return fmt::format("there are no tile windows {} pixels apart", c.stride);
  constexpr int64_t kMost = std::numeric_limits<int>::max() / 4;
  if (std::max(c.n * c.out_h() * c.out_w(), c.n * c.h * c.w) > kMost) return "too large for a tile window";
  return why_no_tile_product(product_of(c), device);
}

std::vector<int> tile_window_forms(bool doubles) {
  std::vector<int> forms;
  for (int form = 0; form < int(tile_forms().size()); ++form)
    if (!tile_forms()[size_t(form)].gated && (!doubles || tile_forms()[size_t(form)].columns == 2 * kDepth))
      forms.push_back(form);
  return forms;
}

TileProductCall product_of(const TileWindowCall& c) {
  const int64_t boxes = c.doubles ? kPlaces * boxes_of_place(c) : Covered(c).boxes(c.n);
  TileProductCall product{.m = boxes * kRows, .n = c.out_c, .k = taps(c) * round_up(c.c, kDepth), .type = c.type};
  product.a = c.in, product.weights = c.filters, product.out = c.out, product.bias = c.bias, product.residual = c.residual;
  product.early_weights = c.early_weights;
  return product;
}

double tile_share(const TileWindowCall& c, int form, int multiprocessors) {
  const TileProductCall product = product_of(c);
  const double used = double(c.n * c.out_h() * c.out_w()) / double(product.m) * (double(taps(c) * c.c) / double(product.k));
  return used * tile_share(product, form, multiprocessors);
}

int best_tile_form(const TileWindowCall& c, int multiprocessors) {
  const std::vector<int> forms = tile_window_forms(c.doubles);
  return forms.size() == 1 ? forms.front() : best_tile_form(product_of(c), multiprocessors);
}

std::string tile_window_module(int form, DType type, bool doubles) {
  return fmt::format("tile_{}_{}_{}", doubles ? "doubled" : "window", tile_forms()[size_t(form)].columns, name(type));
}

TileWindow tile_window_without_maps(const TileWindowCall& c, int form, int multiprocessors) {
  const Covered covered(c);
  const TileBox& box = covered.box;
  TileWindow made;
  made.product = tile_product_without_maps(product_of(c), form, multiprocessors);
  made.product.kernel = tile_window_module(form, c.type, c.doubles) + "__plain";
  made.window = {.channels = int(c.c),
                 .kernel_w = c.doubles ? 2 : int(c.kernel_w),
                 .stride = int(c.stride),
                 .left = int(c.left),
                 .top = int(c.top),
                 .width = int(covered.w),
                 .height = int(covered.h),
                 .pictures = int(c.n),
                 .box_x = logarithm(box.w),
                 .box_y = logarithm(box.h),
                 .boxes_x = int(covered.boxes_x()),
                 .boxes_y = int(covered.boxes_y()),
                 .place_boxes = int(boxes_of_place(c))};
  made.pixels = {.at = c.in,
                 .type = c.type,
                 .sizes = {c.c, c.w, c.h, c.n},
                 .strides = {c.c, c.w * c.c, c.h * c.w * c.c},
                 .box = {kDepth, box.w * c.stride, box.h * c.stride, box.n},
                 .steps = {1, c.stride, c.stride, 1}};
  made.filters = {.at = c.filters, .type = c.type};
  if (c.doubles) {
    made.filters.sizes = {c.out_c, kPlaces * kDoublingTaps, c.c};
    made.filters.strides = {c.out_c, kPlaces * kDoublingTaps * c.out_c};
    made.filters.box = {kDepth, 1, kDepth};
  } else {
    made.filters.sizes = {c.c, taps(c), c.out_c};
    made.filters.strides = {c.c, taps(c) * c.c};
    made.filters.box = {kDepth, 1, tile_forms()[size_t(form)].columns / 2};
  }
  return made;
}

TileWindow tile_window(const TileWindowCall& call, int form, int multiprocessors) {
  TileWindow made = tile_window_without_maps(call, form, multiprocessors);
  describe(made.product.maps.a, made.pixels);
  describe(made.product.maps.weights, made.filters);
  return made;
}

}  // namespace sinter::cuda
