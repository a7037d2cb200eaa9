#pragma once
#include <cstdint>
#include <functional>

namespace sinter {

/// Writes elements [begin, begin + count) of one line: a row of the left factor, a column of the right one.
using ProductFill = std::function<void(int64_t line, int64_t begin, int64_t count, double* out)>;
/// Takes `count` results of one row, from `column` on.
using ProductStore = std::function<void(int64_t row, int64_t column, int64_t count, const double* values)>;

/// The matrix product behind every reference: sums of `depth` products in double precision, each in order of the depth (in pieces
/// of a fixed length), on several threads. The factors come through functions, so that a convolution needs no copy of its input.
void product(int64_t rows, int64_t columns, int64_t depth, const ProductFill& left, const ProductFill& right,
             const ProductStore& store);

/// out[i] += factor * x[i].
void add_scaled(double* out, const double* x, double factor, int64_t count);

}  // namespace sinter
