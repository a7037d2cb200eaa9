#include "backends/cuda/kernels/resident_attention.device.h"

SINTER_RESIDENT_ATTENTION(bf16, true, 48)
