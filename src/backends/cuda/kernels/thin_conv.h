#pragma once
#include <string>

#include "backends/cuda/kernels/gemm.h"

namespace sinter::cuda {

// Convolutions of 16-bit pictures whose inputs or outputs have few channels, and no multiple of 8, which cuDNN's kernels want:
// the first and the last of the U-Nets and of the VAE's parts. Stride 1, filters and pixels dense, at most a bias; sums are f32
// and rounded once. They begin before the kernel in front of them has ended and read filters and bias then, which nothing in the
// stream may write.

/// The pixels of the result that a block makes; 0: what was fastest.
struct ThinTile {
  int h = 0, w = 0;
};

/// Why there is no such kernel, empty where there is one. It should then be used: see bench/NOTES.md.
std::string why_no_thin_conv(const ConvCall& call, const DeviceInfo& device);
/// The module that holds the kernel for the channels, windows and type of a call whose sizes and addresses may be missing; empty:
/// none.
std::string thin_conv_module(const ConvCall& call, const DeviceInfo& device);

void thin_conv(KernelTarget& target, const ConvCall& call, ThinTile tile = {});

}  // namespace sinter::cuda
