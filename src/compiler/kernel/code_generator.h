#pragma once
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "compiler/kernel/gpu_row_kernel.h"

namespace sinter {

/// What code is generated for. Two equal targets can share object code.
struct CpuTarget {
  std::string cpu;        ///< LLVM's name, for example "x86-64-v4"
  std::string features;   ///< LLVM's feature string, for example "+avx2,+fma,+f16c"
  int vector_floats = 8;  ///< floats in one vector register: 8 (AVX2, FMA, F16C) or 16 (AVX-512 F, BW, DQ and VL)
  bool f16c = false;      ///< converts f16 in hardware
  bool bf16_dot = false;  ///< AVX512-BF16: dot products and conversion to bf16
  bool operator==(const CpuTarget&) const = default;
  std::string text() const;
};

struct NamedKernel {
  std::string symbol;
  RowKernel kernel;
};

struct NamedGpuKernel {
  std::string symbol;
  RowKernel kernel;
  GpuSchedule schedule;
};

/// The interface of the module that holds LLVM. Opened once, by name, from the folder of libsinter, when the first kernel must be
/// compiled; a run that finds everything in the cache never opens it. Thread-safe. Results are ELF relocatable objects that
/// need no outside symbols (ObjectCode loads them).
class CodeGenerator {
 public:
  virtual ~CodeGenerator() = default;
  virtual std::vector<std::byte> row_kernels(std::span<const NamedKernel> kernels, const CpuTarget& target) = 0;
  /// The matrix-product kernels of backends/cpu: see microkernels.h.
  virtual std::vector<std::byte> microkernels(const CpuTarget& target) = 0;
  /// PTX text with one entry for each kernel; arguments and launch: gpu_row_kernel.h.
  virtual std::string gpu_row_kernels(std::span<const NamedGpuKernel> kernels, const GpuTarget& target) = 0;
  /// The same kernels for a CPU that plays a GPU, in tests: functions of the type GpuRehearsalFunction.
  virtual std::vector<std::byte> gpu_rehearsal(std::span<const NamedGpuKernel> kernels, const CpuTarget& target) = 0;
  /// LLVM IR or assembly of kernels, for people: `what` is "ir" or "asm".
  virtual std::string listing(std::span<const NamedKernel> kernels, const CpuTarget& target, const std::string& what) = 0;
};

/// Opens the module; Code::NotFound names the places searched.
CodeGenerator& code_generator();
/// True once the module is open: the promise "no LLVM in a run from a full cache" is checked with this.
bool code_generator_loaded();

}  // namespace sinter
