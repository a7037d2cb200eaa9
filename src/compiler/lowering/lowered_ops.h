#pragma once
#include "graph/ops.h"

namespace sinter {

/// What group_norm becomes before lowering: the call to group_stats. Inputs x, gamma, beta; attributes of group_norm.
extern const OpDef group_scale_shift_op;

}  // namespace sinter
