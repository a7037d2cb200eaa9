#include "backends/cuda/kernels/resident_attention.device.h"

namespace sinter::device {

SINTER_RESIDENT_ATTENTION(bf16, true, 64, 1)
SINTER_RESIDENT_ATTENTION(bf16, true, 64, 2)

}  // namespace sinter::device
