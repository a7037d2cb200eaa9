#include "backends/cuda/kernels/tile_attention_few.device.h"

SINTER_FEW_KEYS_ATTENTION(tile_attention_few_40_bf16, true, 40, 4, 80)
