#include "backends/cpu/microkernels.h"

namespace sinter {

Microkernels load_microkernels(const ObjectCode& object, const CpuTarget& target, const CpuFacts& facts) {
  Microkernels out;
  out.vector_floats = target.vector_floats;
  out.max_rows = microkernel_rows(target.vector_floats);
  out.dot = target.bf16_dot && target.vector_floats == 16;
  if (facts.l1d_bytes) out.l1_bytes = facts.l1d_bytes;
  if (facts.l2_bytes) out.l2_bytes = facts.l2_bytes;
  for (int type = 0; type < kPanelTypes; ++type) {
    if (PanelType(type) == PanelType::bf16_dot && !out.dot) continue;
    for (int vectors = 1; vectors <= kPanelVectors; ++vectors)
      for (int rows = 1; rows <= out.max_rows; ++rows)
        out.table[type][vectors - 1][rows - 1] = object.function<Microkernel>(microkernel_symbol(PanelType(type), vectors, rows));
  }
  return out;
}

}  // namespace sinter
