#include "backends/cuda/kernels/split_product.device.h"

SINTER_SPLIT_SHORTCUT(192, 4, bf16, true)
