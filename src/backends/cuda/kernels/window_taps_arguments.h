#pragma once
#include "backends/cuda/kernels/tile_product_arguments.h"

namespace sinter::device {

/// What the kernels of tile_taps.device.h and split_product.device.h take of a convolution besides a product's arguments, the
/// same bytes for host and device. The product's k counts whole steps: all channels of a tap, then the next tap's.
struct TapsArguments {
  int kernel_w = 1, stride = 1, left = 0, top = 0;  ///< left, top: padding
  int width = 0, height = 0, pictures = 0;          ///< of the result
  int channels = 0;                                 ///< of a tap, filled up to whole steps
};

}  // namespace sinter::device
