#include "backends/cuda/kernels/tile_attention.device.h"

SINTER_TILE_ATTENTION(64, 64, 3, bf16, true)
