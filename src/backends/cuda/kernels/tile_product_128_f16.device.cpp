#include "backends/cuda/kernels/tile_product.device.h"

SINTER_TILE_PRODUCTS(128, f16, false)
