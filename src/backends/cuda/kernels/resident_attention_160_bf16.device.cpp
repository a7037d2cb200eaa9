#include "backends/cuda/kernels/resident_attention.device.h"

namespace sinter::device {

SINTER_RESIDENT_ATTENTION(bf16, true, 160, 1, one, false)
SINTER_RESIDENT_ATTENTION(bf16, true, 160, 1, many, true)

}  // namespace sinter::device
