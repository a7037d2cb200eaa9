#pragma once
#include <string>

#include "backends/cuda/kernels/tensor_map.h"
#include "backends/cuda/kernels/tile_window.h"
#include "backends/cuda/kernels/window_taps_arguments.h"

namespace sinter::cuda {

/// Convolutions as products whose rows are consecutive pixels of the result, which the copying unit brings tap by tap: what tile
/// taps and split windows have in common. Where the result is of twice the size, rows are those of its four places, one after the
/// other, each filled up to whole tiles.

/// Why the copying unit does not bring them; empty where it does.
std::string why_no_taps(const TileWindowCall& call);
/// The product that it is, k counting whole steps.
TileProductCall taps_product(const TileWindowCall& call);
/// Of the sums that make one result.
int64_t taps_products(const TileWindowCall& call);
/// What the convolution needs of the product's sums: not those of channels that there are not, nor of what places are filled up
/// with.
double taps_used(const TileWindowCall& call);

/// What is copied of pixels and filters; so many filters at a time.
PixelOperands taps_operands(const TileWindowCall& call, int64_t filters);
/// What kernels take of a call; where the result is of twice the size, of a place, with the padding of an even one.
device::TapsArguments taps_arguments(const TileWindowCall& call);

}  // namespace sinter::cuda
