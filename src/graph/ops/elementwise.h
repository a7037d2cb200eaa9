#pragma once
#include "graph/ops.h"

namespace sinter {

/// One op for each formula, in the order of formulas.list.
std::vector<const OpDef*> elementwise_ops();

}  // namespace sinter
