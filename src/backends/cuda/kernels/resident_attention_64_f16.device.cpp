#include "backends/cuda/kernels/resident_attention.device.h"

namespace sinter::device {

SINTER_RESIDENT_ATTENTION(f16, false, 64, 1, one, false)
SINTER_RESIDENT_ATTENTION(f16, false, 64, 2, one, false)
SINTER_RESIDENT_ATTENTION(f16, false, 64, 1, many, true)

}  // namespace sinter::device
