#include "backends/cuda/kernels/tile_window.device.h"

SINTER_TILE_SHORTCUT(80, f16, false)
