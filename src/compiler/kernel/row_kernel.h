#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/hash.h"
#include "graph/formula.h"
#include "tensor/dtype.h"

namespace sinter {

/// How an operand is addressed along the columns of a row kernel.
enum class ColumnAccess : uint8_t {
  dense,      ///< elements lie side by side
  broadcast,  ///< one element for the whole row
  strided,    ///< a stride in elements, given at run time
};

/// How an operand is addressed by row.
enum class RowAccess : uint8_t {
  dims,    ///< sum over the outer dims of index[d] * stride[d]
  scaled,  ///< the same with index[d] * numerator[d] / denominator[d], rounded down, for index[d]: nearest-neighbour resizing
  flat,    ///< row number * stride[0]: tiles in scratch memory, whose base the caller has moved so that its first row fits
};

struct KernelOperand {
  DType dtype = DType::f32;
  ColumnAccess column = ColumnAccess::dense;
  RowAccess row = RowAccess::dims;
  bool written = false;
};

/// One step of a kernel's body; `a`, `b`, `c` are numbers of earlier steps.
struct KernelStep {
  enum Kind : uint8_t {
    load,  ///< element of operand at (row, column), converted to f32 (integers too)
    constant,
    primitive,   ///< prim(a, b, c), in f32
    reduce_sum,  ///< of `a` over all columns; one value a row
    reduce_max,
    column_index,  ///< the column number
    row_index,     ///< the index along outer dim `operand`
    store,         ///< `a` to operand, converted to its type (floats to nearest even)
    swap_pairs,    ///< the value of `a` at the other column of a pair: 2n + 1 at 2n and 2n at 2n + 1
  } kind;
  Prim prim{};
  int a = -1, b = -1, c = -1;
  int operand = -1;
  double value = 0;
};

/// A fused group of pointwise, movement and row-reduction ops: for each row of an iteration space of `rank` outer dims and one
/// dim of columns, evaluate the body for every column. A reduction is complete before what depends on it is evaluated; what comes
/// before it is evaluated again from its loads, which are in cache by then. Where a kernel runs on part of the columns,
/// reductions still cover the whole row, and what depends on them is stored for that part. Stores come last; a step that does not
/// depend on the column is computed once a row, and only such a step may be stored to an operand with one element a row.
/// With swap_pairs in the body, columns are even in number, and where the kernel runs on part of them, that part begins and ends
/// between pairs.
///
/// Everything that is a number at run time comes through `params`, so that one kernel serves all sizes:
///   params[0] columns; params[1 + d] size of outer dim d, outermost first;
///   then for each operand in turn, from operand_params(i): stride[d] in elements for each outer dim (flat: only stride[0] is
///   read), the column stride, and for `scaled` numerator[0], denominator[0], numerator[1], denominator[1], and so on.
struct RowKernel {
  int rank = 1;
  std::vector<KernelOperand> operands;
  std::vector<KernelStep> body;

  int operand_params(int operand) const;  ///< where the params of an operand begin
  int param_count() const;
  Digest digest() const;
  std::string text() const;  ///< one line a step, for people
};

/// What a kernel may have at most that is fused into a call; tiles are the parts of a linear layer.
inline constexpr int kMaxFusedOperands = 64, kMaxFusedParams = 512, kMaxTiles = 4;

/// A compiled row kernel: rows [row_begin, row_end) of the flattened outer dims, columns [column_begin, column_end).
/// operands[i] is the address of element 0 of operand i. Operands written overlap no other operand, except that one may be
/// exactly the same memory as a read operand with the same addressing.
using RowKernelFunction = void (*)(char* const* operands, const int64_t* params, int64_t row_begin, int64_t row_end,
                                   int64_t column_begin, int64_t column_end);

}  // namespace sinter
