#include "backends/cuda/kernels/tile_attention.device.h"

SINTER_TILE_ATTENTION(80, 80, 2, f16, false)
