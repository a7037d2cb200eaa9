#include <doctest/doctest.h>

#include <cmath>

#include "shapes/test_tools.h"

using namespace sinter;
using namespace sinter::shapes;

namespace {

/// Lanczos with three lobes in real numbers, the textbook's double sum.
double resampled(const Pixels& p, int width, int height, int x, int y, int channel) {
  auto window = [](double t) {
    if (t == 0) return 1.0;
    return std::abs(t) < 3 ? 3 * std::sin(M_PI * t) * std::sin(M_PI * t / 3) / (M_PI * M_PI * t * t) : 0.0;
  };
  double sum = 0, weights = 0;
  for (int j = 0; j < p.height; ++j)
    for (int i = 0; i < p.width; ++i) {
      double w = window((i + 0.5) * width / p.width - x - 0.5) * window((j + 0.5) * height / p.height - y - 0.5);
      sum += w * p.rgb[size_t((j * p.width + i) * 3 + channel)];
      weights += w;
    }
  return std::min(255.0, std::max(0.0, sum / weights));
}

}  // namespace

TEST_CASE("a picture is shrunk to the compute size with Lanczos, and never enlarged") {
  Options options;
  options.compute_size = 64;
  Pixels source = test_pixels(200, 130);
  Pixels small = compute_picture(image_of(source), options);
  CHECK(small.width == 64);
  CHECK(small.height == 42);
  double worst = 0;
  for (int y = 0; y < small.height; y += 3)
    for (int x = 0; x < small.width; ++x)
      for (int c = 0; c < 3; ++c)
        worst = std::max(worst, std::abs(small.rgb[size_t((y * 64 + x) * 3 + c)] - resampled(source, 64, 42, x, y, c)));
  CHECK(worst < 0.6);  // half a level of rounding and a little for weights of 14 bits

  CHECK(compute_picture(test_image(64, 20), options) == test_pixels(64, 20));
}

TEST_CASE("an even picture stays even when it shrinks") {
  Options options;
  options.compute_size = 64;
  Pixels even{1000, 77, {}};
  for (int i = 0; i < 1000 * 77; ++i) even.rgb.insert(even.rgb.end(), {3, 251, 128});
  Pixels small = compute_picture(image_of(even), options);
  CHECK(small.height == 5);
  for (size_t i = 0; i < small.rgb.size(); ++i) REQUIRE(small.rgb[i] == even.rgb[i]);
}

TEST_CASE("very long pictures keep at least one pixel of height") {
  Options options;
  options.compute_size = 64;
  Pixels small = compute_picture(test_image(9000, 2), options);
  CHECK(small.width == 64);
  CHECK(small.height == 1);
}

TEST_CASE("a transparent picture lies on the fill, or on the mean of what is not transparent") {
  Pixels pixels{2, 1, {200, 100, 0, 7, 7, 7}};
  Image image = image_of(pixels);
  image.alpha = Tensor(DType::f32, {1, 2});
  image.alpha.f32()[0] = 1;
  Options options;
  CHECK(compute_picture(image, options).rgb == std::vector<uint8_t>{200, 100, 0, 200, 100, 0});
  options.fill_auto = false;
  options.fill = {1, 2, 3};
  CHECK(compute_picture(image, options).rgb == std::vector<uint8_t>{200, 100, 0, 1, 2, 3});
  image.alpha.f32()[0] = 0;
  CHECK(compute_picture(image, options).rgb == std::vector<uint8_t>{1, 2, 3, 1, 2, 3});
}
