#include "backends/cuda/kernels/split_product.device.h"

SINTER_SPLIT_SHORTCUT(80, 6, bf16, true)
