#include "backends/cuda/kernels/tile_attention_few.device.h"

SINTER_FEW_KEYS_ATTENTION(tile_attention_few_80_bf16, true, 80, 3, 80)
