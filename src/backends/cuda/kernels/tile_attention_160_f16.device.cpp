#include "backends/cuda/kernels/tile_attention.device.h"

SINTER_TILE_ATTENTION(tile_attention_160_f16, false, 160, 2, 64)
