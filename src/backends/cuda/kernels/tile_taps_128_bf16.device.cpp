#include "backends/cuda/kernels/tile_taps.device.h"

SINTER_TILE_TAPS(128, bf16, true)
