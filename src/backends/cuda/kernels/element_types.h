#pragma once

namespace sinter::device {

/// The element types that kernels take as an argument; device code cannot include tensor/dtype.h.
enum ElementType : int { kF32, kF16, kBf16, kE4m3, kE5m2 };

}  // namespace sinter::device
