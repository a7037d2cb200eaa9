#include "backends/cuda/kernels/tile_window.device.h"

SINTER_TILE_SHORTCUT(80, bf16, true)
