#pragma once
#include <optional>

#include "compiler/lowering/program.h"

namespace sinter::cuda {

/// What a step of group statistics and the row kernel behind it compute together: a group norm, or its SiLU.
struct GroupNormSteps {
  bool silu = false;
  Place out;
  int64_t out_stride = 0;  ///< elements from pixel to pixel; pictures follow at pixels * out_stride
};

/// Whether step `at`, which is one of statistics, and the next one are that, and nobody else wants the statistics.
std::optional<GroupNormSteps> group_norm_steps(const Program& program, size_t at, const Bindings& bindings);

}  // namespace sinter::cuda
