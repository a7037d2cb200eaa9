#include "pipelines/tiled_decode.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "refusal.h"

using namespace sinter;

namespace {

Tensor waves(std::vector<int64_t> shape) {
  Tensor x(DType::f32, std::move(shape));
  for (int64_t i = 0; i < x.count(); ++i) x.f32()[size_t(i)] = std::sin(0.37f * float(i));
  return x;
}

/// Twice as large, and each value the mean of the 3x3 around it; beyond the edge there are zeros, as in a convolution.
Tensor blur_and_double(const Tensor& x) {
  int64_t channels = x.dim(1), height = x.dim(2), width = x.dim(3);
  Tensor out(DType::f32, {1, channels, height * 2, width * 2});
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t i = 0; i < height * 2; ++i)
      for (int64_t j = 0; j < width * 2; ++j) {
        float sum = 0;
        for (int64_t y = std::max<int64_t>(0, i / 2 - 1); y <= std::min(height - 1, i / 2 + 1); ++y)
          for (int64_t k = std::max<int64_t>(0, j / 2 - 1); k <= std::min(width - 1, j / 2 + 1); ++k)
            sum += x.f32()[size_t((c * height + y) * width + k)];
        out.f32()[size_t((c * height * 2 + i) * width * 2 + j)] = sum / 9;
      }
  return out;
}

float apart(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  float most = 0;
  for (size_t i = 0; i < a.f32().size(); ++i) most = std::max(most, std::fabs(a.f32()[i] - b.f32()[i]));
  return most;
}

Tensor doubled(const Tensor& x) {
  Tensor out(DType::f32, {1, x.dim(1), x.dim(2) * 2, x.dim(3) * 2});
  for (int64_t c = 0; c < x.dim(1); ++c)
    for (int64_t i = 0; i < out.dim(2); ++i)
      for (int64_t j = 0; j < out.dim(3); ++j)
        out.f32()[size_t((c * out.dim(2) + i) * out.dim(3) + j)] = x.f32()[size_t((c * x.dim(2) + i / 2) * x.dim(3) + j / 2)];
  return out;
}

}  // namespace

TEST_CASE("a latent that fits into one tile of each tiling is decoded as it is") {
  Tensor x = waves({1, 3, 6, 7});
  int calls = 0;
  Tensor out = decode_in_tiles(x, {.tile = 16, .overlap = 4}, 2, [&](const Tensor& tile) {
    ++calls;
    CHECK(tile.shape() == x.shape());
    return blur_and_double(tile);
  });
  CHECK(calls == 3);
  CHECK(apart(out, blur_and_double(x)) < 1e-6f);
}

TEST_CASE("where a network looks at one place only, tiles give what the whole gives, whatever the sizes") {
  for (int64_t height : {9, 16, 31})
    for (int64_t width : {5, 16, 40}) {
      Tensor x = waves({1, 2, height, width});
      CHECK(apart(decode_in_tiles(x, {.tile = 16, .overlap = 4}, 2, doubled), doubled(x)) < 1e-5f);
    }
}

TEST_CASE("a network that looks one place around differs at seams only, and there little") {
  // Constant input: the tile's own edge is darker by the zeros beyond it, and blending must hide nearly all of that.
  Tensor x(DType::f32, {1, 1, 32, 32});
  std::ranges::fill(x.f32(), 1.0f);
  Tensor tiles = decode_in_tiles(x, {.tile = 16, .overlap = 4}, 2, blur_and_double), whole = blur_and_double(x);
  CHECK(apart(tiles, whole) > 0);
  CHECK(apart(tiles, whole) < 0.2f);
  int same = 0;
  for (size_t i = 0; i < whole.f32().size(); ++i) same += std::fabs(tiles.f32()[i] - whole.f32()[i]) < 1e-6f;
  CHECK(same > int(whole.f32().size()) / 4);
}

TEST_CASE("the pictures of a batch are tiled one by one") {
  Tensor x = waves({2, 2, 20, 20});
  DecodeTiles tiles{.tile = 16, .overlap = 4};
  Tensor both = decode_in_tiles(x, tiles, 2, blur_and_double);
  for (int64_t b : {0, 1}) CHECK(apart(both.rows(b, b + 1), decode_in_tiles(x.rows(b, b + 1), tiles, 2, blur_and_double)) == 0);
}

TEST_CASE("an overlap that leaves no tile a middle is refused") {
  Tensor x = waves({1, 1, 8, 8});
  CHECK(contains(refusal([&] { decode_in_tiles(x, {.tile = 16, .overlap = 8}, 2, doubled); }), "overlap of 8"));
  CHECK(contains(refusal([&] { decode_in_tiles(x, {.tile = 16, .overlap = -1}, 2, doubled); }), "overlap of -1"));
}
