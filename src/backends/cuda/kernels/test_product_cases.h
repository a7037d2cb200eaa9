#pragma once
#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "backends/cuda/kernels/test_targets.h"
#include "backends/cuda/kernels/test_tensor_map.h"
#include "backends/cuda/kernels/tile_product.h"
#include "backends/cuda/kernels/tile_window.h"
#include "base/error.h"

namespace sinter::cuda {

inline double gelu_tanh(double x) { return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x))); }
inline double gelu_erf(double x) { return 0.5 * x * std::erfc(-x / std::sqrt(2.0)); }

/// One product with random data against sums in double, everything around its output being poisoned.
struct ProductCase {
  TestTarget& target;
  TileProductCall call;
  std::vector<float> a, weights, bias, residual;
  int64_t out_offset = 0, out_count = 0;

  ProductCase(TestTarget& t, TileProductCall c, bool has_bias, bool adds) : target(t), call(c) {
    if (!call.a_stride) call.a_stride = call.k;
    if (!call.weights_stride) call.weights_stride = call.k;
    if (!call.out_stride) call.out_stride = call.n;
    if (!call.residual_stride) call.residual_stride = call.n;
    const int64_t rows = call.gated ? 2 * call.n : call.n;
    a = rounded(random_values(size_t(call.m * call.a_stride), 1), call.type);
    weights = rounded(random_values(size_t(rows * call.weights_stride), 2, float(1 / std::sqrt(double(call.k)))), call.type);
    bias = rounded(random_values(size_t(rows), 3), call.type);
    residual = rounded(random_values(size_t(call.m * call.residual_stride), 4), call.type);
    call.a = target.upload(encode(a, call.type));
    call.weights = target.upload(encode(weights, call.type));
    if (has_bias) call.bias = target.upload(encode(bias, call.type));
    if (adds) call.residual = target.upload(encode(residual, call.type));
    out_count = call.m * call.out_stride + 64;
    call.out = target.untouched(out_count * 2);
  }

  double sum(int64_t row, int64_t weight) const {
    double value = 0;
    for (int64_t i = 0; i < call.k; ++i)
      value += double(a[size_t(row * call.a_stride + i)]) * weights[size_t(weight * call.weights_stride + i)];
    return call.scale * value + (call.bias ? double(bias[size_t(weight)]) : 0.0);
  }
  double expected(int64_t row, int64_t column) const {
    double value = sum(row, column);
    if (call.gated) value *= gelu_erf(sum(row, call.n + column));
    if (call.gelu) value = gelu_tanh(value);
    if (call.residual) value += residual[size_t(row * call.residual_stride + column)];
    return value;
  }

  /// The worst error of every 16th row (and the last ones), beyond the rounding of the result; what was written beside counts
  /// as 1e9. `where`: the tiles of 128 x 32 that are wrong.
  double worst_error(std::string& where) {
    const auto got = decode(target.download<uint8_t>(call.out, size_t(out_count * 2)), call.type);
    const double rounding = call.type == DType::bf16 ? 0x1p-8 : 0x1p-11;
    std::map<std::pair<int64_t, int64_t>, double> tiles;
    double worst = 0;
    for (int64_t row = 0; row < call.m; ++row) {
      const bool all = call.m * call.n * call.k < 40'000'000;
      if (!all && row % 61 != 0 && row + 3 < call.m) continue;
      for (int64_t column = 0; column < call.n; ++column) {
        const double value = expected(row, column), seen = got[size_t(row * call.out_stride + column)];
        double error = std::max(0.0, std::abs(seen - value) - 1.01 * rounding * std::abs(value));
        if (!std::isfinite(seen)) error = 1e9;
        double& tile = tiles[{row / 128, column / 32}];
        tile = std::max(tile, error);
        worst = std::max(worst, error);
      }
    }
    for (int64_t i = 0; i < out_count; ++i)
      if ((i >= call.m * call.out_stride || i % call.out_stride >= call.n) && !std::isnan(got[size_t(i)]))
        worst = 1e9, where += "beside; ";
    int listed = 0;
    for (const auto& [tile, error] : tiles)
      if (error > 1e-4 && ++listed <= 24) where += fmt::format("({}, {}): {:.2g}; ", tile.first, tile.second, error);
    where += fmt::format("{} of {} tiles", listed, tiles.size());
    return worst;
  }
};

/// Launches what was made of a case's call, and compares its results with sums in double.
template <class Case, class Made>
void check_results(TestTarget& target, Case& c, const Made& made) {
  made.launch(target);
  if (!target.emulated()) CHECK(static_cast<DeviceTarget&>(target).function(made.kernel).local_bytes() == 0);
  std::string where;
  const double worst = c.worst_error(where);
  CHECK_MESSAGE(worst < 1e-4, where);
}

/// What emulated copies read of a product.
template <class Left>
void describe_for_emulation(Operands<Left>& of, bool early_weights) {
  describe_for_emulation(of.maps.a, of.a);
  describe_for_emulation(of.maps.weights, of.weights, early_weights);
}
/// And of a convolution that may have a shortcut.
template <class Window>
void describe_for_emulation(Window& window, bool early_weights) {
  describe_for_emulation(window.operands, early_weights);
  if (window.shortcut) describe_for_emulation(window.shortcut->operands, early_weights);
}

/// At addresses that planning accepts and nobody reads.
inline TileWindowCall window(int64_t n, int64_t h, int64_t w, int64_t c, int64_t out_c, DType type = DType::bf16) {
  TileWindowCall call{.n = n, .h = h, .w = w, .c = c, .out_c = out_c, .type = type};
  call.in = call.filters = call.out = 4096;
  return call;
}
inline TileWindowCall doubled(TileWindowCall call) {
  call.doubles = true;
  return call;
}
inline TileWindowCall sized(TileWindowCall call, int64_t kernel_h, int64_t kernel_w, int64_t stride) {
  call.kernel_h = kernel_h, call.kernel_w = kernel_w, call.stride = stride;
  return call;
}
inline TileWindowCall padded(TileWindowCall call, int64_t top, int64_t bottom, int64_t left, int64_t right) {
  call.top = top, call.bottom = bottom, call.left = left, call.right = right;
  return call;
}
inline TileWindowCall with_shortcut(TileWindowCall call, int64_t c, int64_t pixel_stride = 0) {
  call.shortcut = {.c = c, .pixel_stride = pixel_stride};
  return call;
}
inline std::string text(const TileWindowCall& c) {
  return fmt::format("{} x {} x {} x {} -> {}, window {} x {} by {}, padding {} {} {} {}", c.n, c.h, c.w, c.c, c.out_c,
                     c.kernel_h, c.kernel_w, c.stride, c.top, c.bottom, c.left, c.right);
}

/// The same for a convolution.
struct Convolution {
  TestTarget& target;
  TileWindowCall call;
  std::vector<float> in, filters, bias, residual;
  std::vector<float> shortcut_in, shortcut_filters, shortcut_bias;
  int64_t count = 0;

  Convolution(TestTarget& t, const TileWindowCall& c, bool has_bias, bool adds) : target(t), call(c) {
    const int64_t k = (call.doubles ? 16 : call.kernel_h * call.kernel_w) * call.c;
    count = call.n * call.out_h() * call.out_w() * call.out_c;
    in = rounded(random_values(size_t(call.n * call.h * call.w * call.c), 1), call.type);
    filters = rounded(random_values(size_t(call.out_c * k), 2, float(1 / std::sqrt(double(k)))), call.type);
    bias = rounded(random_values(size_t(call.out_c), 3), call.type);
    residual = rounded(random_values(size_t(count), 4), call.type);
    call.in = target.upload(encode(in, call.type));
    call.filters = target.upload(encode(filters, call.type));
    call.bias = has_bias ? target.upload(encode(bias, call.type)) : 0;
    call.residual = adds ? target.upload(encode(residual, call.type)) : 0;
    call.out = target.untouched((count + 64) * 2);
    if (call.shortcut.c > 0) add_shortcut(has_bias);
  }
  void add_shortcut(bool has_bias) {
    TileShortcut& s = call.shortcut;
    if (!s.pixel_stride) s.pixel_stride = s.c;
    // What lies between pixels must not count.
    shortcut_in = rounded(random_values(size_t(call.n * call.out_h() * call.out_w() * s.pixel_stride), 5), call.type);
    for (size_t i = 0; i < shortcut_in.size(); ++i)
      if (int64_t(i) % s.pixel_stride >= s.c) shortcut_in[i] = NAN;
    shortcut_filters = rounded(random_values(size_t(call.out_c * s.c), 6, float(1 / std::sqrt(double(s.c)))), call.type);
    shortcut_bias = rounded(random_values(size_t(call.out_c), 7), call.type);
    s.in = target.upload(encode(shortcut_in, call.type));
    s.filters = target.upload(encode(shortcut_filters, call.type));
    s.bias = has_bias ? target.upload(encode(shortcut_bias, call.type)) : 0;
  }

  /// The result goes where the residual lies.
  void work_in_place() {
    std::vector<float> held = residual;
    held.resize(held.size() + 64, NAN);
    call.out = call.residual = target.upload(encode(held, call.type));
  }

  double shortcut_sum(int64_t n, int64_t y, int64_t x, int64_t o) const {
    const TileShortcut& s = call.shortcut;
    if (s.c == 0) return 0;
    double sum = s.bias ? shortcut_bias[size_t(o)] : 0;
    const float* pixel = &shortcut_in[size_t(((n * call.out_h() + y) * call.out_w() + x) * s.pixel_stride)];
    for (int64_t c = 0; c < s.c; ++c) sum += double(pixel[c]) * shortcut_filters[size_t(o * s.c + c)];
    return sum;
  }

  /// What the window gives to a pixel.
  double window_sum(int64_t n, int64_t y, int64_t x, int64_t o) const {
    double sum = 0;
    for (int64_t ky = 0; ky < call.kernel_h; ++ky)
      for (int64_t kx = 0; kx < call.kernel_w; ++kx) {
        const int64_t from_y = y * call.stride + ky - call.top, from_x = x * call.stride + kx - call.left;
        if (from_y < 0 || from_y >= call.h || from_x < 0 || from_x >= call.w) continue;
        const float* pixel = &in[size_t(((n * call.h + from_y) * call.w + from_x) * call.c)];
        const float* filter = &filters[size_t(((o * call.kernel_h + ky) * call.kernel_w + kx) * call.c)];
        for (int64_t c = 0; c < call.c; ++c) sum += double(pixel[c]) * filter[c];
      }
    return sum;
  }
  double doubled_sum(int64_t n, int64_t y, int64_t x, int64_t o) const {
    double sum = 0;
    for (int64_t from_y = 0; from_y < call.h; ++from_y)
      for (int64_t from_x = 0; from_x < call.w; ++from_x) {
        const int64_t ky = y - (2 * from_y - 1), kx = x - (2 * from_x - 1);
        if (ky < 0 || ky > 3 || kx < 0 || kx > 3) continue;
        for (int64_t c = 0; c < call.c; ++c)
          sum += double(in[size_t(((n * call.h + from_y) * call.w + from_x) * call.c + c)]) *
                 filters[size_t((c * 16 + ky * 4 + kx) * call.out_c + o)];
      }
    return sum;
  }
  double expected(int64_t n, int64_t y, int64_t x, int64_t o) const {
    double sum = shortcut_sum(n, y, x, o) + (call.doubles ? doubled_sum(n, y, x, o) : window_sum(n, y, x, o));
    if (call.bias) sum += bias[size_t(o)];
    if (call.residual) sum += residual[size_t(((n * call.out_h() + y) * call.out_w() + x) * call.out_c + o)];
    return sum;
  }

  /// Beyond the rounding of the result; about a hundred thousand of the numbers are compared. What is not written, or beside,
  /// counts as 1e9.
  double worst_error(std::string& where) {
    const auto got = decode(target.download<uint8_t>(call.out, size_t((count + 64) * 2)), call.type);
    const double rounding = call.type == DType::bf16 ? 0x1p-8 : 0x1p-11;
    const double cost = double(count) * double(call.kernel_h * call.kernel_w * call.c);
    const int64_t every = std::max<int64_t>(1, int64_t(cost / 1e8)) | 1;
    double worst = 0;
    for (int64_t i = 0; i < int64_t(got.size()); ++i) {
      if (std::isnan(got[size_t(i)]) == (i < count)) return where = fmt::format("{} of {}", i, count), 1e9;
      if (i >= count || i % every) continue;
      const int64_t o = i % call.out_c, pixel = i / call.out_c, x = pixel % call.out_w(), y = pixel / call.out_w() % call.out_h();
      const int64_t n = pixel / (call.out_w() * call.out_h());
      const double value = expected(n, y, x, o);
      const double error = std::max(0.0, std::abs(got[size_t(i)] - value) - 1.01 * rounding * std::abs(value));
      if (error > worst) where = fmt::format("picture {}, row {}, column {}, channel {}", n, y, x, o);
      worst = std::max(worst, error);
    }
    return worst;
  }
};

/// Checks a convolution, in the residual's place or not. `make(call)`: what is launched, its call at addresses of `target`.
template <class Make>
void check_convolution(TestTarget& target, const TileWindowCall& call, bool bias, bool adds, bool in_place, const Make& make) {
  CAPTURE(text(call));
  CAPTURE(call.shortcut.c);
  CAPTURE(bias);
  CAPTURE(adds);
  Convolution c(target, call, bias, adds);
  c.call.early_weights = adds;
  if (in_place) c.work_in_place();
  check_results(target, c, make(c.call));
}

}  // namespace sinter::cuda
