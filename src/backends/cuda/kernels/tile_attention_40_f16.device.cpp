#include "backends/cuda/kernels/tile_attention.device.h"

SINTER_TILE_ATTENTION(40, 40, 4, f16, false)
