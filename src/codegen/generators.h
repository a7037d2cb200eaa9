#pragma once
#include "codegen/emit.h"
#include "compiler/kernel/row_kernel.h"

namespace sinter {

/// Adds the exported function `symbol`, a RowKernelFunction.
void add_row_kernel(Emitter& emitter, const std::string& symbol, const RowKernel& kernel);

}  // namespace sinter
