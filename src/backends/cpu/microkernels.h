#pragma once
#include "backends/cpu/host.h"
#include "backends/cpu/object_code.h"
#include "compiler/kernel/microkernels.h"

namespace sinter {

/// The matrix-product kernels of one target as functions, and the cache sizes that blocking depends on.
struct Microkernels {
  int vector_floats = 8;
  int max_rows = 6;
  bool dot = false;              ///< PanelType::bf16_dot exists
  int64_t l1_bytes = 32 << 10;   ///< data cache of one core
  int64_t l2_bytes = 512 << 10;  ///< of one core
  Microkernel table[kPanelTypes][kPanelVectors][14] = {};

  int panel_columns() const { return kPanelVectors * vector_floats; }
  Microkernel get(PanelType type, int vectors, int rows) const { return table[int(type)][vectors - 1][rows - 1]; }
};

/// The kernels in the object code that CodeGenerator::microkernels made for `target`; it must outlive them.
/// Code::NotFound names a symbol that is missing.
Microkernels load_microkernels(const ObjectCode& object, const CpuTarget& target, const CpuFacts& facts);

}  // namespace sinter
