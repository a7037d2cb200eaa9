#include "backends/cuda/kernels/resident_attention.device.h"

SINTER_RESIDENT_ATTENTION(f16, false, 160)
