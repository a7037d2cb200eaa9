#include "compiler/kernel/row_kernel.h"

#include <fmt/core.h>

namespace sinter {

int RowKernel::operand_params(int operand) const {
  int at = 1 + rank;
  for (int i = 0; i < operand; ++i) at += rank + 1 + (operands[size_t(i)].row == RowAccess::scaled ? 2 * rank : 0);
  return at;
}

int RowKernel::param_count() const { return operand_params(int(operands.size())); }

Digest RowKernel::digest() const {
  Hasher h;
  h.add(rank).add(uint64_t(operands.size()));
  for (const KernelOperand& o : operands) h.add(o.dtype).add(o.column).add(o.row).add(o.written);
  for (const KernelStep& s : body) h.add(s.kind).add(s.prim).add(s.a).add(s.b).add(s.c).add(s.operand).add(s.value);
  return h.digest();
}

std::string RowKernel::text() const {
  static constexpr const char* kColumn[] = {"dense", "broadcast", "strided"};
  static constexpr const char* kRow[] = {"", " scaled", " flat"};
  std::string out = fmt::format("row kernel, {} outer dims\n", rank);
  for (size_t i = 0; i < operands.size(); ++i) {
    const KernelOperand& o = operands[i];
    out +=
        fmt::format("  {} ${}: {} {}{}\n", o.written ? "out" : "in", i, name(o.dtype), kColumn[int(o.column)], kRow[int(o.row)]);
  }
  for (size_t i = 0; i < body.size(); ++i) {
    const KernelStep& s = body[i];
    switch (s.kind) {
      case KernelStep::load:
        out += fmt::format("  %{} = load ${}\n", i, s.operand);
        break;
      case KernelStep::constant:
        out += fmt::format("  %{} = {}\n", i, s.value);
        break;
      case KernelStep::primitive:
        out += fmt::format("  %{} = {} %{}{}{}\n", i, name(s.prim), s.a, s.b >= 0 ? fmt::format(", %{}", s.b) : "",
                           s.c >= 0 ? fmt::format(", %{}", s.c) : "");
        break;
      case KernelStep::reduce_sum:
        out += fmt::format("  %{} = sum of the row of %{}\n", i, s.a);
        break;
      case KernelStep::reduce_max:
        out += fmt::format("  %{} = maximum of the row of %{}\n", i, s.a);
        break;
      case KernelStep::column_index:
        out += fmt::format("  %{} = column\n", i);
        break;
      case KernelStep::row_index:
        out += fmt::format("  %{} = index of outer dim {}\n", i, s.operand);
        break;
      case KernelStep::swap_pairs:
        out += fmt::format("  %{} = %{} with the columns of each pair swapped\n", i, s.a);
        break;
      case KernelStep::store:
        out += fmt::format("  ${} = %{}\n", s.operand, s.a);
        break;
    }
  }
  return out;
}

}  // namespace sinter
