#include "backends/cuda/kernels/tile_attention.device.h"

SINTER_TILE_ATTENTION(tile_attention_64_bf16, true, 64, 3)
