#include "backends/cuda/kernels/tile_product.device.h"

SINTER_TILE_PRODUCTS(160, bf16, true)
