#pragma once
#include <cmath>
#include <utility>
#include <vector>

namespace sinter {

/// Solves rows * solution = right by Gauss elimination with row exchange; for the few unknowns of a multistep solver. A singular
/// system gives infinities or NaN.
inline std::vector<double> linear_solve(std::vector<std::vector<double>> rows, std::vector<double> right) {
  size_t n = rows.size();
  for (size_t column = 0; column < n; ++column) {
    size_t pivot = column;
    for (size_t row = column + 1; row < n; ++row)
      if (std::abs(rows[row][column]) > std::abs(rows[pivot][column])) pivot = row;
    std::swap(rows[column], rows[pivot]);
    std::swap(right[column], right[pivot]);
    for (size_t row = column + 1; row < n; ++row) {
      double factor = rows[row][column] / rows[column][column];
      for (size_t k = column; k < n; ++k) rows[row][k] -= factor * rows[column][k];
      right[row] -= factor * right[column];
    }
  }
  for (size_t row = n; row-- > 0;) {
    for (size_t k = row + 1; k < n; ++k) right[row] -= rows[row][k] * right[k];
    right[row] /= rows[row][row];
  }
  return right;
}

}  // namespace sinter
