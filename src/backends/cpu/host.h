#pragma once
#include <cstdint>
#include <string>

#include "compiler/kernel/code_generator.h"

namespace sinter {

/// What this machine's CPU is and can do, as CPUID and the system tell it. No LLVM.
struct CpuFacts {
  std::string model;
  int cores = 1;                                      ///< that this process may use
  int64_t l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;  ///< of one core; of one shared cache for l3; 0 where there is none
  bool avx2 = false, fma = false, f16c = false;
  bool avx512f = false, avx512bw = false, avx512dq = false, avx512vl = false, avx512_bf16 = false, avx512_vnni = false;
  bool amx_tile = false, amx_bf16 = false;
  bool level_avx2() const { return avx2 && fma && f16c; }
  bool level_avx512() const { return level_avx2() && avx512f && avx512bw && avx512dq && avx512vl; }
};
const CpuFacts& host_cpu();

/// The best target that this machine runs, or the one that SINTER_CPU_TARGET names: "avx2" or "avx512".
/// Code::Unsupported when the machine cannot run it.
CpuTarget host_target();
/// The target of a level by name, for the features in `facts`.
CpuTarget cpu_target(const std::string& level, const CpuFacts& facts);

}  // namespace sinter
