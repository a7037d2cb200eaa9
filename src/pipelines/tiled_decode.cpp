#include "pipelines/tiled_decode.h"

#include <algorithm>
#include <vector>

#include "base/error.h"

namespace sinter {
namespace {

/// Where tiles begin along one axis.
std::vector<int64_t> starts(int64_t length, int64_t tile, int64_t overlap) {
  std::vector<int64_t> at{0};
  if (length <= tile) return at;
  for (int64_t next = tile - overlap; next < length - overlap; next += tile - overlap) at.push_back(next);
  return at;
}

Tensor crop(const Tensor& x, int64_t y0, int64_t x0, int64_t height, int64_t width) {
  Tensor out(DType::f32, {1, x.dim(1), height, width});
  for (int64_t c = 0; c < x.dim(1); ++c)
    for (int64_t y = 0; y < height; ++y)
      std::copy_n(&x.f32()[size_t((c * x.dim(2) + y0 + y) * x.dim(3) + x0)], width, &out.f32()[size_t((c * height + y) * width)]);
  return out;
}

/// The weight of row k of a tile: rises over `feather` rows at both ends.
float ramp(int64_t k, int64_t length, int64_t feather) {
  if (feather >= length) return 1;
  float weight = 1;
  if (k < feather) weight *= float(k + 1) / float(feather);
  if (length - 1 - k < feather) weight *= float(length - k) / float(feather);
  return weight;
}

Tensor one_tiling(const Tensor& x, int64_t tile_h, int64_t tile_w, int64_t overlap, int64_t scale, const TileFunction& decode) {
  if (x.dim(2) <= tile_h && x.dim(3) <= tile_w) return decode(x);
  Tensor sum;
  std::vector<float> weights(size_t(x.dim(2) * x.dim(3) * scale * scale), 0.0f);
  int64_t width = x.dim(3) * scale, height = x.dim(2) * scale, feather = overlap * scale;
  for (int64_t y : starts(x.dim(2), tile_h, overlap))
    for (int64_t left : starts(x.dim(3), tile_w, overlap)) {
      Tensor tile = decode(crop(x, y, left, std::min(tile_h, x.dim(2) - y), std::min(tile_w, x.dim(3) - left)));
      if (sum.empty()) sum = Tensor(DType::f32, {1, tile.dim(1), height, width});
      for (int64_t i = 0; i < tile.dim(2); ++i)
        for (int64_t j = 0; j < tile.dim(3); ++j) {
          float weight = ramp(i, tile.dim(2), feather) * ramp(j, tile.dim(3), feather);
          int64_t at = (y * scale + i) * width + left * scale + j;
          weights[size_t(at)] += weight;
          for (int64_t c = 0; c < tile.dim(1); ++c)
            sum.f32()[size_t(c * height * width + at)] += weight * tile.f32()[size_t((c * tile.dim(2) + i) * tile.dim(3) + j)];
        }
    }
  for (int64_t i = 0; i < sum.count(); ++i) sum.f32()[size_t(i)] /= weights[size_t(i % (height * width))];
  return sum;
}

}  // namespace

Tensor decode_in_tiles(const Tensor& latent, const DecodeTiles& tiles, int64_t scale, const TileFunction& decode) {
  int64_t t = tiles.tile, o = tiles.overlap;
  if (o < 0 || t / 2 <= o)
    fail(Code::InvalidArgument, "tiles of {} with an overlap of {}: the overlap must be below half a tile's half", t, o);
  Tensor out;
  for (int64_t b = 0; b < latent.dim(0); ++b) {
    Tensor one = latent.rows(b, b + 1);
    Tensor tilings[3] = {one_tiling(one, t * 2, t / 2, o, scale, decode), one_tiling(one, t / 2, t * 2, o, scale, decode),
                         one_tiling(one, t, t, o, scale, decode)};
    if (out.empty()) out = Tensor(DType::f32, {latent.dim(0), tilings[0].dim(1), tilings[0].dim(2), tilings[0].dim(3)});
    Tensor place = out.rows(b, b + 1);
    for (size_t i = 0; i < size_t(place.count()); ++i)
      place.f32()[i] = (tilings[0].f32()[i] + tilings[1].f32()[i] + tilings[2].f32()[i]) / 3.0f;
  }
  return out;
}

}  // namespace sinter
