#include "tensor/brownian.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/error.h"
#include "tensor/random.h"

namespace sinter {
namespace {

constexpr size_t kPoolWords = 24;

/// The nearest number of six decimals, ties decided on the exact binary value: times closer than this are the same time.
double round_time(double value) {
  char text[400];
  std::snprintf(text, sizeof text, "%.6f", value);
  return std::strtod(text, nullptr);
}

void append_words(std::vector<uint32_t>& words, uint64_t value) {
  words.push_back(uint32_t(value));
  if (value >> 32) words.push_back(uint32_t(value >> 32));
}

/// One multiplicative hash with a constant that changes at every use (O'Neill, "Developing a seed_seq alternative").
struct RunningHash {
  uint32_t constant, multiplier;
  uint32_t operator()(uint32_t value) {
    value ^= constant;
    constant *= multiplier;
    value *= constant;
    return value ^ (value >> 16);
  }
};

uint32_t mix(uint32_t x, uint32_t y) {
  uint32_t result = 0xca01f9ddu * x - 0x4973f715u * y;
  return result ^ (result >> 16);
}

Tensor seeded_normal(const std::vector<int64_t>& shape, uint32_t seed) { return RandomGenerator(seed).randn(shape); }

}  // namespace

std::vector<uint32_t> seed_sequence(uint64_t entropy, const std::vector<uint64_t>& spawn_key, size_t pool_size, size_t count) {
  std::vector<uint32_t> words;
  append_words(words, entropy);
  if (!spawn_key.empty() && words.size() < pool_size) words.resize(pool_size);  // keeps a key apart from longer entropy
  for (uint64_t key : spawn_key) append_words(words, key);

  RunningHash hash{0x43b0d7e5u, 0x931e8875u};
  std::vector<uint32_t> pool(pool_size);
  for (size_t i = 0; i < pool_size; ++i) pool[i] = hash(i < words.size() ? words[i] : 0);
  for (size_t from = 0; from < pool_size; ++from)
    for (size_t to = 0; to < pool_size; ++to)
      if (from != to) pool[to] = mix(pool[to], hash(pool[from]));
  for (size_t from = pool_size; from < words.size(); ++from)
    for (size_t to = 0; to < pool_size; ++to) pool[to] = mix(pool[to], hash(words[from]));

  RunningHash output{0x8b51f9ddu, 0x58f38dedu};
  std::vector<uint32_t> state(count);
  for (size_t i = 0; i < count; ++i) state[i] = output(pool[i % pool_size]);
  return state;
}

/// A node of the tree: its seed depends on where it is, so that the path does not depend on the questions asked.
struct BrownianTree::Interval {
  double start, end;
  uint64_t position = 0;  ///< among the intervals of its depth, from the left
  uint64_t depth = 0;
};

BrownianTree::BrownianTree(std::vector<int64_t> shape, double start, double end, uint64_t seed)
    : shape_(std::move(shape)), start_(round_time(start)), end_(round_time(end)), seed_(seed) {
  if (!(start_ < end_)) fail(Code::InvalidArgument, "a Brownian motion needs a start before its end, not {} and {}", start, end);
  whole_ = seeded_normal(shape_, seed_sequence(seed_, {}, kPoolWords, 1)[0]);
  float scale = float(std::sqrt(end - start));
  for (float& value : whole_.f32()) value *= scale;
}

/// Adds to `sum` the increment over [from, to], a part of `interval`, over which the path changes by `increment`.
void BrownianTree::collect(const Interval& interval, const Tensor& increment, double from, double to, Tensor& sum) const {
  auto [start, end, position, depth] = interval;
  auto whole = increment.f32();
  if (from == start && to == end) {
    for (size_t i = 0; i < whole.size(); ++i) sum.f32()[i] += whole[i];
    return;
  }
  // The value in the middle, given both ends: normal around the straight line (Brownian bridge).
  double middle = round_time(0.5 * (start + end));
  float left_length = float(middle - start), per_length = float(1 / (end - start));
  float deviation = float(std::sqrt((middle - start) * (end - middle) / (end - start)));
  Tensor half = seeded_normal(shape_, seed_sequence(seed_, {position, depth}, kPoolWords, 1)[0]);
  auto values = half.f32();
  for (size_t i = 0; i < whole.size(); ++i) values[i] = left_length * whole[i] * per_length + deviation * values[i];

  if (from < middle) collect({start, middle, 2 * position, depth + 1}, half, from, std::min(to, middle), sum);
  if (to <= middle) return;
  for (size_t i = 0; i < whole.size(); ++i) values[i] = whole[i] - values[i];
  collect({middle, end, 2 * position + 1, depth + 1}, half, std::max(from, middle), to, sum);
}

Tensor BrownianTree::increment(double from, double to) const {
  auto inside = [&](double t) { return std::clamp(round_time(t), start_, end_); };
  double low = inside(std::min(from, to)), high = inside(std::max(from, to));
  Tensor sum(DType::f32, shape_);
  if (low < high) collect({start_, end_}, whole_, low, high, sum);
  if (from > to)
    for (float& value : sum.f32()) value = -value;
  return sum;
}

BrownianNoise::BrownianNoise(std::vector<int64_t> shape, float sigma_min, float sigma_max, uint64_t seed)
    : tree_(std::move(shape), sigma_min, sigma_max, seed) {}

Tensor BrownianNoise::operator()(float sigma, float sigma_next) const {
  Tensor out = tree_.increment(sigma, sigma_next);
  float length = std::sqrt(std::abs(sigma_next - sigma));
  for (float& value : out.f32()) value /= length;
  return out;
}

}  // namespace sinter
