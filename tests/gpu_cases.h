#pragma once
// Schedules for the random cases of row_kernel_cases.h, for tests of the GPU form with and without a GPU.

#include <bit>

#include "compiler/kernel/code_generator.h"
#include "row_kernel_cases.h"

namespace sinter::row_kernel_cases {

/// A random case over all its rows and columns: a launch knows no parts.
inline Case whole_case(Random& random) {
  Case c = random.make();
  c.row_begin = c.column_begin = 0;
  c.row_end = c.rows;
  c.column_end = c.columns();
  return c;
}

/// A schedule that may run the case with its operands there: now what would be chosen, now something odd.
inline GpuSchedule any_schedule(Random& random, const Case& c, const std::vector<uint64_t>& addresses) {
  GpuFacts facts = facts_of(c.kernel, c.params, addresses);
  for (size_t i = 0; i < c.shares.size(); ++i) facts.operands[i].alone = random.chance(80);
  for (int shared : c.shares)
    if (shared >= 0) facts.operands[size_t(shared)].alone = false;
  if (random.chance(30)) facts.columns.reset();
  if (random.chance(20))
    for (auto& o : facts.operands) o.multiple = 1;
  bool swaps = std::any_of(c.kernel.body.begin(), c.kernel.body.end(),
                           [](const KernelStep& s) { return s.kind == KernelStep::swap_pairs; });
  if (random.chance(10) && !swaps && !facts.columns) facts.column_multiple = 1;
  facts.rough_rows = random.chance(50) ? facts.rough_rows : 100'000;
  if (random.chance(20)) facts.rough_columns = random.between(1, 5000);
  facts.large = facts.large || random.chance(20);
  GpuSchedule s = choose_schedule(c.kernel, facts);
  if (random.chance(40)) {
    static constexpr int kThreads[] = {1, 2, 4, 8, 16, 32, 64, 96, 128, 256, 512};
    s.row_threads = kThreads[size_t(random.below(11))];
    s.turns = int(random.between(1, 4));
    s.block_rows = std::has_single_bit(unsigned(s.row_threads)) ? std::max(32 / s.row_threads, 1 << random.below(3)) : 1;
    if (s.block_threads() > 1024) s.block_rows = 1;
    if (!needs_whole_rows(c.kernel) && random.chance(50)) {
      s.row_threads = int(random.between(1, 200));
      s.block_rows = int(random.between(1, 5));
    }
  }
  return s;
}

/// For dense rows of any number of columns that 8 divides.
inline GpuSchedule any_dense_schedule(const RowKernel& kernel) {
  GpuFacts facts;
  facts.column_multiple = 8;
  facts.operands.assign(kernel.operands.size(), {8, true});
  return choose_schedule(kernel, facts);
}

/// Dense elements of one type to another.
inline RowKernel conversion(DType from, DType to) {
  RowKernel k;
  k.operands = {{.dtype = from}, {.dtype = to, .written = true}};
  k.body = {load(0), store(1, 0)};
  return k;
}

}  // namespace sinter::row_kernel_cases
