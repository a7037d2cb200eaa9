#pragma once
#include <vector>

#include "backends/cuda/driver.h"
#include "tensor/dtype.h"

namespace sinter::cuda {

/// An array of 16-bit elements as the copying unit of devices of capability 9.0 sees it, and the boxes of it that are copied at a
/// time, with swizzled chunks of 16 bytes: the innermost axis first, which is dense and of which 64 elements are copied. The
/// address and all strides are multiples of 16 bytes.
struct TiledArray {
  DevicePtr at = 0;
  DType type = DType::bf16;
  std::vector<int64_t> sizes, strides;  ///< strides: in elements, of all axes but the first
  std::vector<int64_t> box;             ///< in elements of the array, so many of which are copied as steps leave
  std::vector<int64_t> steps = {};      ///< every so manyth element is copied; none: all
};
/// Dense pictures of 16-bit elements, [n, h, w, c], as the same unit brings pixels of them for one tap of a window (im2col), and
/// 64 channels at a time. Windows begin at pixels whose coordinates are first.x, first.x + stride, ... up to w - 1 + last.x, and
/// so along y; first.x <= w - 1 + last.x.
struct PixelColumns {
  struct Corner {
    int64_t x = 0, y = 0;  ///< from -128 to 127
  };
  DevicePtr at = 0;
  DType type = DType::bf16;
  int64_t n = 1, h = 0, w = 0, c = 0;
  Corner first, last;  ///< relative to the pictures' first pixel and to their last
  int64_t stride = 1;  ///< 8 at most
  int64_t pixels = 0;  ///< that are brought at a time, 1024 at most
};
/// These ask the driver for the description that kernels give to the copying unit.
void describe(uint64_t (&map)[16], const TiledArray& array);
void describe(uint64_t (&map)[16], const PixelColumns& columns);

}  // namespace sinter::cuda
