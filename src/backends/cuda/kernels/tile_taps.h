#pragma once
#include <string>
#include <vector>

#include "backends/cuda/kernels/window_taps.h"

namespace sinter::cuda {

/// Tile windows whose pixels come tap by tap: convolutions as tile products are made, for pictures of which patches would not be
/// full. They are asked for by the same calls and keep the same promises; there are none to twice the size, and none with a
/// shortcut.

/// Why there is no such kernel; empty where there is one.
std::string why_no_tile_taps(const TileWindowCall& call, const DeviceInfo& device);

/// The forms of tiles that there are kernels for, by their numbers among tile_forms().
std::vector<int> tile_taps_forms();
/// What the result is of all that the device's multiprocessors make while its tiles are made, rounds that are not full, tiles
/// that reach beyond the result, and steps that reach beyond the channels counted.
double tile_taps_share(const TileWindowCall& call, int form, int multiprocessors);
/// The module that holds a form's kernel.
std::string tile_taps_module(int form, DType type);

/// A call as it is launched.
struct TileTaps {
  std::string kernel;
  LaunchShape shape;
  PixelOperands operands;
  device::TileProductArguments product;  ///< that it is
  device::TapsArguments taps;

  void launch(KernelTarget& target) const { target(kernel, shape, operands.maps, product, taps); }
};
/// Asks the driver to describe pixels and filters to the copying unit; the call must be one that there is a kernel for.
TileTaps tile_taps(const TileWindowCall& call, int form, int multiprocessors);
/// The same but for the maps, which need a driver.
TileTaps tile_taps_without_maps(const TileWindowCall& call, int form, int multiprocessors);

}  // namespace sinter::cuda
