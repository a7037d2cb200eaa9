#include "backends/cuda/kernels/tile_taps.device.h"

SINTER_TILE_TAPS(160, f16, false)
