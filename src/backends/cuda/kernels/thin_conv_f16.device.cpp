#include "backends/cuda/kernels/thin_conv.device.h"

SINTER_THIN_CONV(f16, false)
