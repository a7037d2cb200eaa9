#pragma once
#include "backends/cpu/calls/tile_kernel.h"
#include "tensor/dtype.h"

namespace sinter {

/// Where rows of a call's input come from: memory or a prologue. Writes them to scratch memory as f32 or bf16.
struct RowSource {
  const TileKernelCall* prologue = nullptr;
  const void* data = nullptr;  ///< without prologue: rows `stride` elements apart
  int64_t stride = 0;
  DType type = DType::f32;    ///< of data, or of what the prologue writes
  DType wanted = DType::f32;  ///< f32 or bf16
  int64_t columns = 0;

  /// Rows [begin, end) to `to`, `row_bytes` apart; an odd row of bf16 gets a zero behind it. A prologue must have been made with
  /// the stride row_bytes / byte_size(wanted). `staging`: columns elements of `type`, used where a prologue's result is
  /// converted.
  void write(int64_t begin, int64_t end, char* to, int64_t row_bytes, char* staging) const;
};

/// Converts rounding to nearest even; f32, f16 and bf16 to f32 or bf16, at the speed of memory.
void convert_row(const void* from, DType from_type, void* to, DType to_type, int64_t count);

}  // namespace sinter
