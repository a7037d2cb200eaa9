#include "backends/cuda/schedules.h"

#include <algorithm>
#include <numeric>

namespace sinter::cuda {
namespace {

/// The largest number that is certain to divide a size; 0 for a size of 0, which everything divides.
int64_t certain_divisor(const Dim& dim) {
  int64_t divisor = 0;
  for (const Dim::Term& term : dim.terms()) {
    int64_t product = term.coefficient;
    for (SymbolId id : term.symbols)
      if (const Symbol& symbol = symbol_info(id); symbol.divisor == 0) product *= symbol.facts.divisor;
    divisor = std::gcd(divisor, product);
  }
  return divisor;
}

bool is_one(const Dim& dim) { return dim.is_constant() && dim.constant() == 1; }

GpuFacts::Operand operand_facts(const KernelUse& use, size_t index, const RowKernel& kernel) {
  const OperandUse& operand = use.operands[index];
  int64_t multiple = std::gcd(kBufferAlignment / byte_size(kernel.operands[index].dtype), certain_divisor(operand.offset));
  for (size_t d = 0; d < operand.strides.size(); ++d)
    if (!is_one(use.outer[d])) multiple = std::gcd(multiple, certain_divisor(operand.strides[d]));
  GpuFacts::Operand facts{multiple, true};
  for (size_t i = 0; i < use.operands.size(); ++i)
    if (kernel.operands[i].written && use.operands[i].buffer == operand.buffer) facts.alone = false;
  return facts;
}

GpuFacts facts_of(const KernelUse& use, const RowKernel& kernel) {
  GpuFacts facts;
  if (use.columns.is_constant()) facts.columns = facts.rough_columns = use.columns.constant();
  facts.column_multiple = std::max<int64_t>(1, certain_divisor(use.columns));
  Dim rows = element_count(use.outer);
  if (rows.is_constant()) facts.rough_rows = rows.constant();
  for (size_t i = 0; i < use.operands.size(); ++i) facts.operands.push_back(operand_facts(use, i, kernel));
  return facts;
}

/// What a step launches of the program's own kernels.
KernelUse* kernel_of(Step& step) {
  if (auto* row = std::get_if<RowStep>(&step)) return &row->use;
  if (auto* conv = std::get_if<ConvStep>(&step); conv && conv->epilogue) return &*conv->epilogue;
  return nullptr;
}

}  // namespace

void schedule_kernels(Program& program) {
  program.variants.clear();
  for (Step& step : program.steps) {
    KernelUse* found = kernel_of(step);
    if (!found) continue;
    KernelUse& use = *found;
    const RowKernel& kernel = program.kernels[size_t(use.kernel)];
    KernelVariant variant{use.kernel, choose_schedule(kernel, facts_of(use, kernel))};
    auto at = std::find(program.variants.begin(), program.variants.end(), variant);
    use.variant = int32_t(at - program.variants.begin());
    if (at == program.variants.end()) program.variants.push_back(std::move(variant));
  }
}

}  // namespace sinter::cuda
