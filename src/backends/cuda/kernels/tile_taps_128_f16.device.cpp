#include "backends/cuda/kernels/tile_taps.device.h"

SINTER_TILE_TAPS(128, f16, false)
