#include "backends/cpu/microkernels.h"

#include "base/error.h"

namespace sinter {

Microkernels microkernels_from(const std::function<void*(const std::string&)>& find, const CpuTarget& target) {
  Microkernels out;
  out.vector_floats = target.vector_floats;
  out.max_rows = microkernel_rows(target.vector_floats);
  out.dot = target.bf16_dot && target.vector_floats == 16;
  for (int type = 0; type < kPanelTypes; ++type) {
    if (PanelType(type) == PanelType::bf16_dot && !out.dot) continue;
    for (int vectors = 1; vectors <= kPanelVectors; ++vectors) {
      for (int rows = 1; rows <= out.max_rows; ++rows) {
        std::string symbol = microkernel_symbol(PanelType(type), vectors, rows);
        void* address = find(symbol);
        if (!address) fail(Code::Corrupt, "microkernels: the object code for {} has no symbol {}", target.text(), symbol);
        out.table[type][vectors - 1][rows - 1] = reinterpret_cast<Microkernel>(address);
      }
    }
  }
  return out;
}

}  // namespace sinter
