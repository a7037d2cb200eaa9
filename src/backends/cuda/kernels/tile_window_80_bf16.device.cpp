#include "backends/cuda/kernels/tile_window.device.h"

SINTER_TILE_WINDOW(80, bf16, true)
