#pragma once
#include "graph/ops.h"

namespace sinter {

/// What group_norm becomes before lowering: the call to group_stats. Inputs x, gamma, beta, and
/// sometimes what is added to x before, [batch, channels], which the shift then contains; attributes of group_norm.
extern const OpDef group_scale_shift_op;

/// What attention becomes where its products are made in f8e4m3. Inputs q, k and v of that type, and `unit`, f32 [1]: what 1
/// stands for in q and k. The result is f8e4m3 in the units of v, in which it always fits; attributes of attention.
extern const OpDef fp8_attention_op;

}  // namespace sinter
