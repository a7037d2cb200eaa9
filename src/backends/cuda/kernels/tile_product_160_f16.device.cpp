#include "backends/cuda/kernels/tile_product.device.h"

SINTER_TILE_PRODUCTS(160, f16, false)
