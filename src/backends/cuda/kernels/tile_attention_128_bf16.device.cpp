#include "backends/cuda/kernels/tile_attention.device.h"

SINTER_TILE_ATTENTION(tile_attention_128_bf16, true, 128, 3, 64)
