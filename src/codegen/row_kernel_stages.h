#pragma once
#include <vector>

#include "compiler/kernel/row_kernel.h"

namespace sinter {

/// One pass over the columns of a row. Numbers are those of the kernel's steps, in order.
struct KernelStage {
  std::vector<int> row_steps;     ///< computed once a row before this pass; reductions of earlier passes are complete
  std::vector<int> column_steps;  ///< computed for every column, stores included
  std::vector<int> reductions;    ///< fed by this pass
};

/// A kernel's body cut into passes, for every generator alike: all but the last end in reductions, the last one stores.
struct KernelStages {
  std::vector<KernelStage> stages;
  std::vector<bool> varies;  ///< by step: depends on the column
};

/// Code::InvalidArgument names the step that makes no sense.
KernelStages stages_of(const RowKernel& kernel);

}  // namespace sinter
