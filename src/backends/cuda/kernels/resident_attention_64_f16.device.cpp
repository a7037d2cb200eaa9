#include "backends/cuda/kernels/resident_attention.device.h"

namespace sinter::device {

SINTER_RESIDENT_ATTENTION(f16, false, 64, 1)
SINTER_RESIDENT_ATTENTION(f16, false, 64, 2)

}  // namespace sinter::device
