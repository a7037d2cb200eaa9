#pragma once
#include <optional>
#include <span>

#include "backends/cuda/kernels/tensor_map.h"
#include "backends/cuda/kernels/tile_product.h"
#include "backends/cuda/kernels/tile_window_arguments.h"

namespace sinter::cuda {

/// A convolution of one pixel, of another picture of the result's size, that is added to a convolution's sums:
///   sum over c of in[n, y, x, c] * filters[o, c] + bias[o].
struct TileShortcut {
  int64_t c = 0;             ///< 0: none
  int64_t pixel_stride = 0;  ///< in elements; 0: dense
  DevicePtr in = 0, filters = 0, bias = 0;

  int64_t stride() const { return pixel_stride ? pixel_stride : c; }
};

/// Kernels of convolutions are of three kinds, each in modules of their own.
enum class WindowKind { Plain, WithShortcut, Doubles };

/// Convolutions of 16-bit pictures on devices of capability 9.0, as products of tiles:
///   out[n, y, x, o] = sum over window and c of in[n, y * stride + ky - top, x * stride + kx - left, c] * filters[o, ky, kx, c]
///                     + bias[o] + residual[n, y, x, o] + shortcut,
/// everything dense. Everything after the sum is f32 and rounded once. Where it doubles, pixel (y, x) of `in` is added to the
/// result's pixels (2 y - 1 to 2 y + 2, 2 x - 1 to 2 x + 2) instead, times filters that are [c, 4, 4, o].
struct TileWindowCall {
  int64_t n = 1, h = 0, w = 0, c = 0, out_c = 0;  ///< h, w: of `in`
  int64_t kernel_h = 3, kernel_w = 3, stride = 1;
  int64_t top = 1, bottom = 1, left = 1, right = 1;  ///< zeros around `in`
  bool doubles = false;                              ///< the window, stride and padding are then those above
  DType type = DType::bf16;                          ///< of everything: bf16 or f16
  DevicePtr in = 0, filters = 0, out = 0;
  DevicePtr bias = 0, residual = 0;  ///< 0: none; the residual may be `out`
  TileShortcut shortcut = {};        ///< not where it doubles
  bool early_weights = false;        ///< of all filters, as of a product's weights

  int64_t out_h() const { return doubles ? 2 * h : (h + top + bottom - kernel_h) / stride + 1; }
  int64_t out_w() const { return doubles ? 2 * w : (w + left + right - kernel_w) / stride + 1; }
  WindowKind kind() const {
    return doubles ? WindowKind::Doubles : shortcut.c > 0 ? WindowKind::WithShortcut : WindowKind::Plain;
  }
};

/// Why there is no such kernel; empty where there is one.
std::string why_no_tile_window(const TileWindowCall& call, const DeviceInfo& device);

/// What the shortcut alone is the reason for.
std::string why_no_shortcut(const TileWindowCall& call);

/// The filters of a call, and of its shortcut, so many of which are copied at a time; where it doubles, kTileDepth.
TiledArray window_filters(const TileWindowCall& call, int64_t filters);
TiledArray shortcut_filters(const TileWindowCall& call, int64_t filters);

/// The forms of tiles that there are kernels for; a form's number is its place here.
std::span<const device::WindowForm> window_forms();
/// The numbers of those for such calls.
std::vector<int> tile_window_forms(bool doubles);
/// What the result is of all that the device's multiprocessors make while its tiles are made: rounds that are not full, patches
/// that reach beyond the pictures, and steps that reach beyond the channels are lost.
double tile_share(const TileWindowCall& call, int form, int multiprocessors);
/// How often the device's multiprocessors make tiles until all are made.
int64_t tile_rounds(const TileWindowCall& call, int form, int multiprocessors);
/// The number of the form that should be fastest.
int best_tile_form(const TileWindowCall& call, int multiprocessors);
/// The module that holds a form's kernel.
std::string tile_window_module(int form, DType type, WindowKind kind);

/// What is launched of a shortcut besides.
template <class Arguments>
struct LaunchedShortcut {
  TiledOperands operands;
  Arguments arguments;
};

/// A call as it is launched.
struct TileWindow {
  std::string kernel;
  LaunchShape shape;
  TiledOperands operands;                ///< pixels and filters
  device::TileProductArguments product;  ///< that it is: its rows are those of whole tiles, its k whole steps
  device::WindowArguments window;
  std::optional<LaunchedShortcut<device::ShortcutArguments>> shortcut;

  void launch(KernelTarget& target) const {
    if (shortcut)
      target(kernel, shape, device::ShortcutMaps{operands.maps, shortcut->operands.maps}, product, window, shortcut->arguments);
    else
      target(kernel, shape, operands.maps, product, window);
  }
};
/// Asks the driver to describe the arrays to the copying unit; the call must be one that there is a kernel for.
TileWindow tile_window(const TileWindowCall& call, int form, int multiprocessors);
/// The same but for the maps, which need a driver.
TileWindow tile_window_without_maps(const TileWindowCall& call, int form, int multiprocessors);

}  // namespace sinter::cuda
