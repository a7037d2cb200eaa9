#include "backends/cuda/kernels/tile_window.device.h"

SINTER_TILE_SHORTCUT(128, bf16, true)
