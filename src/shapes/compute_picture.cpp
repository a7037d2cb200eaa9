#include <algorithm>
#include <cmath>

#include "shapes/integers.h"
#include "shapes/scoring.h"
#include "shapes/shapes.h"

namespace sinter::shapes {

namespace {

int stored(float value) { return int(std::clamp(value, 0.0f, 1.0f) * 255.0f + 0.5f); }

/// What shows through where a picture is transparent: the mean of what is not, weighted by how opaque it is.
Color mean_of_opaque(const Image& picture) {
  auto pixels = picture.pixels.f32(), alpha = picture.alpha.f32();
  int64_t sums[kChannels] = {}, weight = 0;
  for (size_t i = 0; i < alpha.size(); ++i) {
    int a = stored(alpha[i]);
    weight += a;
    for (int c = 0; c < kChannels; ++c) sums[c] += int64_t(a) * stored(pixels[i * kChannels + size_t(c)]);
  }
  Color mean{};
  if (weight > 0)
    for (size_t c = 0; c < kChannels; ++c) mean[c] = uint8_t(round_div(sums[c], weight));
  return mean;
}

Pixels opaque_bytes(const Image& picture, const Options& options) {
  Pixels out{int(picture.pixels.dim(1)), int(picture.pixels.dim(0)), {}};
  auto pixels = picture.pixels.f32();
  out.rgb.resize(pixels.size());
  for (size_t i = 0; i < pixels.size(); ++i) out.rgb[i] = uint8_t(stored(pixels[i]));
  if (picture.alpha.empty()) return out;
  const Color below = options.fill_auto ? mean_of_opaque(picture) : options.fill;
  auto alpha = picture.alpha.f32();
  for (size_t i = 0; i < pixels.size(); ++i)
    out.rgb[i] = blended(below[i % kChannels], out.rgb[i], uint8_t(stored(alpha[i / kChannels])));
  return out;
}

constexpr int kLobes = 3;
constexpr int kWeightBits = 14;
/// Between the passes values have so many bits behind the point.
constexpr int kMiddleBits = 6;

/// Lanczos' window at t, in 2^-30; t is in 2^-16.
int64_t lanczos(int64_t t) {
  t = std::abs(t);
  if (t == 0) return int64_t(1) << kSineBits;
  if (t >= int64_t(kLobes) << 16) return 0;
  constexpr int64_t kPiSquared = 646812;  // in 2^-16
  // Turns: pi t radians are t / 2 of them, in 1/65536.
  int64_t product = sine(uint32_t(t / 2)) * sine(uint32_t(t / (2 * kLobes))) >> kSineBits;
  int64_t divisor = std::max<int64_t>(kPiSquared * (t * t >> 16) >> 16, 1);
  return std::min((kLobes * product << 16) / divisor, int64_t(1) << kSineBits);
}

struct Taps {
  int begin = 0;
  std::vector<int32_t> weights;  ///< sum 2^kWeightBits
};

std::vector<Taps> shrinking_taps(int64_t from, int64_t to) {
  std::vector<Taps> all{size_t(to)};
  for (int64_t i = 0; i < to; ++i) {
    Taps& taps = all[size_t(i)];
    // Source pixel j lies ((2 j + 1) to - (2 i + 1) from) / (2 from) target pixels from the centre of target pixel i.
    int64_t centre = (2 * i + 1) * from, reach = 2 * kLobes * from;
    int64_t begin = std::max<int64_t>(0, (centre - reach) / (2 * to) - 1), end = std::min(from, (centre + reach) / (2 * to) + 2);
    std::vector<int64_t> exact;
    int64_t sum = 0;
    for (int64_t j = begin; j < end; ++j) {
      exact.push_back(lanczos((((2 * j + 1) * to - centre) << 16) / (2 * from)));
      sum += exact.back();
    }
    taps.begin = int(begin);
    int32_t total = 0;
    for (int64_t weight : exact) {
      taps.weights.push_back(int32_t(round_div(weight << kWeightBits, sum)));
      total += taps.weights.back();
    }
    auto largest = std::max_element(taps.weights.begin(), taps.weights.end());
    *largest += (1 << kWeightBits) - total;  // an even area keeps its colour exactly
  }
  return all;
}

Pixels shrunk(const Pixels& picture, int width, int height) {
  auto columns = shrinking_taps(picture.width, width), rows = shrinking_taps(picture.height, height);
  std::vector<int32_t> middle(size_t(width) * size_t(picture.height) * kChannels);
  size_t at = 0;
  for (int y = 0; y < picture.height; ++y)
    for (const Taps& taps : columns)
      for (int c = 0; c < kChannels; ++c) {
        const uint8_t* source = picture.rgb.data() + (size_t(y) * size_t(picture.width) + size_t(taps.begin)) * kChannels + c;
        int64_t sum = 0;
        for (size_t j = 0; j < taps.weights.size(); ++j) sum += int64_t(taps.weights[j]) * source[j * kChannels];
        middle[at++] = int32_t(round_div(sum, 1 << (kWeightBits - kMiddleBits)));
      }
  Pixels out{width, height, {}};
  const size_t line = size_t(width) * kChannels;
  out.rgb.resize(line * size_t(height));
  for (size_t y = 0; y < rows.size(); ++y)
    for (size_t x = 0; x < line; ++x) {
      const int32_t* source = middle.data() + size_t(rows[y].begin) * line + x;
      int64_t sum = 0;
      for (size_t j = 0; j < rows[y].weights.size(); ++j) sum += int64_t(rows[y].weights[j]) * source[j * line];
      out.rgb[y * line + x] = uint8_t(std::clamp<int64_t>(round_div(sum, 1 << (kWeightBits + kMiddleBits)), 0, 255));
    }
  return out;
}

}  // namespace

Pixels compute_picture(const Image& picture, const Options& options) {
  Pixels pixels = opaque_bytes(picture, options);
  const int64_t longer = std::max(pixels.width, pixels.height), wanted = options.compute_size;
  if (longer <= wanted) return pixels;
  auto side = [&](int64_t length) { return int(std::max<int64_t>(1, round_div(length * wanted, longer))); };
  return shrunk(pixels, side(pixels.width), side(pixels.height));
}

}  // namespace sinter::shapes
