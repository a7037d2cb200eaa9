#include "backends/cuda/kernels/tile_window.device.h"

SINTER_TILE_WINDOW(80, f16, false)
