#include "backends/cuda/kernels/tile_window.device.h"

SINTER_TILE_SHORTCUT(160, bf16, true)
