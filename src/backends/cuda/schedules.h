#pragma once
#include "compiler/lowering/program.h"

namespace sinter::cuda {

/// Chooses a schedule for every use of a row kernel, by what its sizes, strides and offsets are certain to be: fills in
/// Program::variants and KernelUse::variant. Buffers are taken to begin at multiples of kBufferAlignment.
void schedule_kernels(Program& program);

inline constexpr int64_t kBufferAlignment = 256;  ///< bytes

}  // namespace sinter::cuda
