#include "backends/cuda/kernels/split_product.device.h"

SINTER_SPLIT_PRODUCT(64, 4, f16, false)
