#include "backends/cuda/kernels/tile_product.device.h"

SINTER_TILE_PRODUCTS(256, bf16, false, true)
