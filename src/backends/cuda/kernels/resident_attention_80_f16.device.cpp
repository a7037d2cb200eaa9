#include "backends/cuda/kernels/resident_attention.device.h"

namespace sinter::device {

SINTER_RESIDENT_ATTENTION(f16, false, 80, 1)
SINTER_RESIDENT_ATTENTION(f16, false, 80, 2)

}  // namespace sinter::device
