#include "backends/cuda/kernels/resident_attention.device.h"

namespace sinter::device {

SINTER_RESIDENT_ATTENTION(bf16, true, 160, 1)

}  // namespace sinter::device
