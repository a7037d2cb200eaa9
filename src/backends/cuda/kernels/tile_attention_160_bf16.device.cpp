#include "backends/cuda/kernels/tile_attention.device.h"

SINTER_TILE_ATTENTION(tile_attention_160_bf16, true, 160, 2, 64)
