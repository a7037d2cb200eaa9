#include "backends/cuda/kernels/tile_window.device.h"

SINTER_TILE_SHORTCUT(128, f16, false)
