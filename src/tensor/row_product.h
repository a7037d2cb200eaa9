#pragma once
#include "tensor/tensor.h"

namespace sinter {

/// What is added to rows [begin, end) of a weight, seen as a matrix [rows, all other axes]: factor * (up . down).
struct RowProduct {
  Tensor up;    ///< [end - begin, inner], then axes of size 1
  Tensor down;  ///< [inner, ...], as many elements behind each as a row has
  int64_t begin = 0, end = 0;
  float factor = 1;
  int64_t inner() const { return up.count() / (end - begin); }
};

}  // namespace sinter
