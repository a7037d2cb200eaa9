#pragma once
#include <stdint.h>

namespace sinter::device {

/// One line of the table that elements__add_products takes.
struct RowProductArguments {
  int64_t up = 0, down = 0;    ///< where the factors lie, in bytes from the beginning of the table
  int64_t begin = 0, end = 0;  ///< the rows of the weight that change
  int64_t inner = 0;
  int type = 0;  ///< of both factors: kF32, kF16 or kBf16
  float factor = 0;
};

}  // namespace sinter::device
