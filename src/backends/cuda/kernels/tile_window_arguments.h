#pragma once
#include "backends/cuda/kernels/tile_product_arguments.h"

namespace sinter::device {

/// What the kernels of tile_window.device.h take besides a product's arguments, the same bytes for host and device: how pixels
/// become rows. A tile's rows are a box of the result's pixels, x first, then y, then the picture; boxes follow each other in the
/// same order. Columns of `a` are the channels of the window's first pixel ("tap"), then of the second, each filled up to a
/// multiple of kTileDepth.
struct WindowArguments {
  int channels = 0, kernel_w = 1, stride = 1, left = 0, top = 0;  ///< left, top: padding
  int width = 0, height = 0, pictures = 0;                        ///< of the result
  int box_x = 0, box_y = 0;                                       ///< logarithms to base 2
  int boxes_x = 0, boxes_y = 0;                                   ///< in a row, and rows of them in a picture
  int place_boxes = 0;                                            ///< where results are of twice the size: of one place, even
};

}  // namespace sinter::device
