#pragma once
#include <fmt/core.h>

#include <cstdint>
#include <string>

#include "compiler/kernel/code_generator.h"

namespace sinter {

/// How the elements of a packed panel are stored and used by a microkernel.
enum class PanelType : uint8_t {
  f32,
  f16,       ///< converted to f32 in registers
  bf16,      ///< element pairs (k, k + 1) side by side; converted to f32 in registers
  bf16_dot,  ///< the layout of bf16, multiplied with a bf16 matrix A by dot-product instructions, added in f32
};
inline constexpr int kPanelTypes = 4;

/// The panel type that stores a checkpoint's type without loss or growth: f32, f16 (also for the f8 types), bf16.
inline PanelType panel_type(DType type) {
  if (type == DType::f16 || type == DType::f8e4m3 || type == DType::f8e5m2) return PanelType::f16;
  return type == DType::bf16 ? PanelType::bf16 : PanelType::f32;
}

/// C[rows x panel] (+)= A[rows x k] * panel[k x (vectors * vector_floats)].
/// A: f32 (bf16_dot: bf16), rows `a_row_bytes` apart. C: f32, rows `c_row_bytes` apart. The panel is contiguous. `k` counts
/// elements, except for bf16_dot, where it counts pairs. `accumulate` is 0 (overwrite C) or 1. Nothing needs alignment; 64-byte
/// alignment of the panel is faster. A panel may be read ahead by a prefetch only.
using Microkernel = void (*)(const void* a, int64_t a_row_bytes, const void* panel, int64_t k, float* c, int64_t c_row_bytes,
                             int64_t accumulate);

/// A panel has at most this many vectors side by side; a last panel with half the columns or less has one.
inline constexpr int kPanelVectors = 2;

/// Rows of the largest microkernel: what the registers hold beside one panel row and one broadcast.
inline int microkernel_rows(int vector_floats) { return vector_floats == 16 ? 14 : 6; }

inline std::string microkernel_symbol(PanelType type, int vectors, int rows) {
  constexpr const char* kNames[] = {"f32", "f16", "bf16", "bf16_dot"};
  return fmt::format("sinter_gemm_{}_{}x{}", kNames[int(type)], rows, vectors);
}

}  // namespace sinter
