#include "backends/cuda/kernels/tile_attention.device.h"

SINTER_TILE_ATTENTION(80, 80, 2, bf16, true)
