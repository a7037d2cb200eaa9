#include "backends/cuda/kernels/split_product.device.h"

SINTER_SPLIT_SHORTCUT(64, 4, f16, false)
