#include "backends/cuda/kernels/split_product.device.h"

SINTER_SPLIT_DOUBLED(192, 4, f16, false)
