#include "backends/cuda/kernels/tile_attention_few.device.h"

SINTER_FEW_KEYS_ATTENTION(tile_attention_few_40_f16, false, 40, 4, 80)
