#include "backends/cuda/kernels/tile_attention.device.h"

SINTER_TILE_ATTENTION(tile_attention_128_f16, false, 128, 3, 64)
