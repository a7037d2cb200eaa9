#pragma once
#include "graph/ops.h"

namespace sinter {

/// What group_norm becomes before lowering: the call to group_stats. Inputs x, gamma, beta, and
/// sometimes what is added to x before, [batch, channels], which the shift then contains; attributes of group_norm.
extern const OpDef group_scale_shift_op;

}  // namespace sinter
