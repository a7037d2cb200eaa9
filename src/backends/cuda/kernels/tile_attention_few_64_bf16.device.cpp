#include "backends/cuda/kernels/tile_attention_few.device.h"

SINTER_FEW_KEYS_ATTENTION(tile_attention_few_64_bf16, true, 64, 4, 80)
