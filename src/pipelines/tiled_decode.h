#pragma once
#include <functional>

#include "tensor/tensor.h"

namespace sinter {

/// Tiles of a decode, in latent elements.
struct DecodeTiles {
  int64_t tile = 64, overlap = 16;
  bool operator==(const DecodeTiles&) const = default;
};

/// A network over pictures: latent [1, channels, h, w] -> [1, channels', h * scale, w * scale].
using TileFunction = std::function<Tensor(const Tensor& tile)>;

/// ComfyUI's tiled decode: the mean of three tilings (tile/2 high and 2*tile wide, the reverse, square), each blended with linear
/// ramps over the overlap. Every picture of the batch by itself.
Tensor decode_in_tiles(const Tensor& latent, const DecodeTiles& tiles, int64_t scale, const TileFunction& decode);

}  // namespace sinter
