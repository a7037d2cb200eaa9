#pragma once
#include <span>
#include <string>
#include <vector>

#include "backends/cuda/kernels/kernels.h"
#include "backends/cuda/kernels/tensor_map.h"
#include "backends/cuda/kernels/tile_product_arguments.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// Products of 16-bit matrices on devices of capability 9.0, by copies of whole tiles and warpgroup instructions:
///   out[m, n] = gelu(scale * a[m, k] . weights[n, k]^T + bias[n]) + residual[m, n], or
///   out[m, n] = value * gelu(gate), where value = scale * a . weights^T + bias, and gate the same of the rows that begin
///   `gate_row` below.
/// Everything after the product is f32 and rounded once.
struct TileProductCall {
  int64_t m = 0, n = 0, k = 0;  ///< n: columns of `out`
  DType type = DType::bf16;     ///< of everything: bf16 or f16
  DevicePtr a = 0, weights = 0, out = 0;
  int64_t a_stride = 0, weights_stride = 0, out_stride = 0;  ///< elements from row to row; 0: dense
  DevicePtr bias = 0;                                        ///< 0: none
  bool gelu = false;                                         ///< the tanh form; not with `gated`
  bool gated = false;                                        ///< with the erf form of GELU; not with a residual
  int64_t gate_row = 0;                                      ///< 0: n
  /// No kernel that was queued before on the stream writes the weights: they are read before those have ended.
  bool early_weights = false;
  DevicePtr residual = 0;  ///< may be `out`; 0: none
  int64_t residual_stride = 0;
  float scale = 1;
};

/// Why there is no such kernel: sizes, alignment (addresses and rows at multiples of 16 bytes), device or driver. Empty where
/// there is one.
std::string why_no_tile_product(const TileProductCall& call, const DeviceInfo& device);

/// The forms of tiles that there are kernels for; a form's number is its place here.
std::span<const device::TileForm> tile_forms();
/// The kernel of a form.
std::string tile_kernel(int form, DType type);
/// What the result is of all that the device's multiprocessors make while its tiles are made, rounds that are not full and tiles
/// that reach beyond the result counted.
double tile_share(const TileProductCall& call, int form, int multiprocessors);
/// The number of the form that should be fastest.
int best_tile_form(const TileProductCall& call, int multiprocessors);

/// What tiles are multiplied of, and what kernels are given of it.
template <class Left>
struct Operands {
  Left a;
  TiledArray weights;
  device::TileMaps maps = {};
};
using TiledOperands = Operands<TiledArray>;
using PixelOperands = Operands<PixelColumns>;
/// Asks the driver for the maps.
template <class Left>
void describe(Operands<Left>& operands) {
  describe(operands.maps.a, operands.a);
  describe(operands.maps.weights, operands.weights);
}

/// A call as it is launched.
struct TileProduct {
  std::string kernel;
  LaunchShape shape;
  device::TileMaps maps;
  device::TileProductArguments arguments;

  void launch(KernelTarget& target) const { target(kernel, shape, maps, arguments); }
};
/// What kernels take of a call, whatever their tiles.
device::TileProductArguments product_arguments(const TileProductCall& call);
/// Asks the driver to describe the matrices to the copying unit; the call must be one that there is a kernel for.
TileProduct tile_product(const TileProductCall& call, int form, int multiprocessors);
/// The same but for the maps, which need a driver.
TileProduct tile_product_without_maps(const TileProductCall& call, int form, int multiprocessors);

}  // namespace sinter::cuda
