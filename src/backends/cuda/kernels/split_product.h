#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "backends/cuda/kernels/split_product_arguments.h"
#include "backends/cuda/kernels/tile_product.h"
#include "backends/cuda/kernels/window_taps.h"

namespace sinter::cuda {

/// Tile products and tile taps of few rows on devices of capability 9.0, each tile made by several blocks, a part of k each
/// (split-k), to twice the size and with a shortcut too. They are asked for by the same calls and keep the same promises; gated
/// ones there are none. The same inputs give the same bits every time.
struct SplitForm {
  int columns;   ///< of a tile
  int rows;      ///< tiles one below the other, made together by a cluster of rows * parts blocks
  int parts;     ///< blocks that make one tile
  bool doubles;  ///< for convolutions to twice the size, and no others

  int blocks() const { return rows * parts; }
};
/// The forms that there are; a form's number is its place here.
std::span<const SplitForm> split_forms();

/// Why no kernel makes such a call in such a form; empty where one does.
std::string why_no_split_product(const TileProductCall& call, int form, const DeviceInfo& device);
std::string why_no_split_product(const TileWindowCall& call, int form, const DeviceInfo& device);

/// What a form does of use of all that the device's multiprocessors could meanwhile; 0 where not all of its clusters are there at
/// once, which is what these kernels are for.
double split_share(const TileProductCall& call, int form, int multiprocessors);
double split_share(const TileWindowCall& call, int form, int multiprocessors);
/// How long a form should take, in microseconds; endless where its share is 0.
double split_microseconds(const TileProductCall& call, int form, int multiprocessors);
double split_microseconds(const TileWindowCall& call, int form, int multiprocessors);
/// The forms that may be worth their time, the one first that should be fastest; none where there are rows enough, or too little
/// to do.
std::vector<int> split_candidates(const TileProductCall& call, const DeviceInfo& device);
std::vector<int> split_candidates(const TileWindowCall& call, const DeviceInfo& device);

/// The module that holds a form's kernels.
std::string split_module(int form, DType type, WindowKind kind);
/// The modules that may be wanted for some number of rows; empty where none is. k: of a convolution, what one of its results
/// takes. Products are in the modules of plain convolutions.
std::vector<std::string> split_modules(int64_t n, int64_t k, DType type, WindowKind kind, const DeviceInfo& device);

/// Calls as they are launched.
struct SplitProduct {
  std::string kernel;
  LaunchShape shape;
  TiledOperands operands;
  device::TileProductArguments arguments;
  device::SplitArguments split;

  void launch(KernelTarget& target) const { target(kernel, shape, operands.maps, arguments, split); }
};
struct SplitWindow {
  std::string kernel;
  LaunchShape shape;
  PixelOperands operands;
  device::TileProductArguments product;  ///< that it is
  device::SplitArguments split;
  device::TapsArguments taps;
  std::optional<LaunchedShortcut<device::SplitShortcutArguments>> shortcut = {};

  void launch(KernelTarget& target) const {
    if (shortcut)
      target(kernel, shape, device::ShortcutMaps{operands.maps, shortcut->operands.maps}, product, split, taps,
             shortcut->arguments);
    else
      target(kernel, shape, operands.maps, product, split, taps);
  }
};
/// These ask the driver to describe the arrays to the copying unit; the call must be one that there is a kernel for.
SplitProduct split_product(const TileProductCall& call, int form);
SplitWindow split_product(const TileWindowCall& call, int form);
/// The same but for the maps, which need a driver.
SplitProduct split_product_without_maps(const TileProductCall& call, int form);
SplitWindow split_product_without_maps(const TileWindowCall& call, int form);

}  // namespace sinter::cuda
