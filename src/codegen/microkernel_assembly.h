#pragma once
#include <string>

#include "compiler/kernel/code_generator.h"

namespace sinter {

/// Assembly (Intel syntax) of all microkernels for a target with at least AVX2, FMA and F16C; Code::Unsupported for less.
/// The register allocation of an outer-product kernel is fixed by its shape, so it is written here rather than left to a
/// compiler: with 28 accumulators of 32 registers every spill would cost, and assembling takes a few milliseconds where
/// optimising took half a second.
std::string microkernel_assembly(const CpuTarget& target);

}  // namespace sinter
