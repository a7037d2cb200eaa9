#include "backends/cuda/kernels/tile_window.device.h"

SINTER_TILE_WINDOW(128, f16, false)
