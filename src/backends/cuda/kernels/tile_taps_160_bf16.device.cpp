#include "backends/cuda/kernels/tile_taps.device.h"

SINTER_TILE_TAPS(160, bf16, true)
