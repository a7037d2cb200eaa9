#include "tensor/random.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numbers>

#include "base/error.h"

namespace sinter {
namespace {

constexpr int64_t kBlock = 16;  // large normal fills transform blocks of 16: 8 radii, then 8 angles

/// Natural logarithm of x in [2^-24, 1], within 2 units in the last place; free of branches so that loops over it vectorise.
/// Polynomial on [sqrt(1/2), sqrt(2)) after splitting off the exponent (minimax coefficients of Cephes' logf).
inline float log_unit(float x) {
  uint32_t bits = std::bit_cast<uint32_t>(x);
  int32_t exponent = int32_t(bits >> 23) - 126;
  float m = std::bit_cast<float>((bits & 0x007fffffu) | 0x3f000000u);  // [0.5, 1)
  bool low = m < 0.707106781186547524f;
  exponent -= low ? 1 : 0;
  float r = (low ? m + m : m) - 1.0f;
  float z = r * r;
  float p = 7.0376836292e-2f;
  p = p * r - 1.1514610310e-1f;
  p = p * r + 1.1676998740e-1f;
  p = p * r - 1.2420140846e-1f;
  p = p * r + 1.4249322787e-1f;
  p = p * r - 1.6668057665e-1f;
  p = p * r + 2.0000714765e-1f;
  p = p * r - 2.4999993993e-1f;
  p = p * r + 3.3333331174e-1f;
  float e = float(exponent);
  float y = p * r * z + e * -2.12194440e-4f - 0.5f * z;
  return r + y + e * 0.693359375f;
}

/// Sine and cosine of an angle in [0, 2 pi], within 2 units in the last place of 1.
inline void sin_cos(float angle, float& sine, float& cosine) {
  int32_t quadrant = int32_t(angle * float(2 / std::numbers::pi) + 0.5f);
  float q = float(quadrant);
  // pi/2 in three parts: the first products are exact.
  float r = ((angle - q * 1.5703125f) - q * 4.837512969970703e-4f) - q * 7.549789948768648e-8f;
  float z = r * r;
  float s = r + r * z * (-1.6666654611e-1f + z * (8.3321608736e-3f + z * -1.9515295891e-4f));
  float c = 1.0f - 0.5f * z + z * z * (4.166664568298827e-2f + z * (-1.388731625493765e-3f + z * 2.443315711809948e-5f));
  bool swapped = quadrant & 1;
  float sine_size = swapped ? c : s, cosine_size = swapped ? s : c;
  sine = (quadrant & 2) ? -sine_size : sine_size;
  cosine = ((quadrant + 1) & 2) ? -cosine_size : cosine_size;
}

/// Turns 16 uniforms into 16 normals in place (Box and Muller): value j is the radius and j + 8 the angle of a pair. In loops of
/// one kind of work each, which compilers turn into vector code; std::sqrt may set errno and would keep the others from it.
inline void normal_block(float* values) {
  float radius[8], sine[8], cosine[8];
  for (int j = 0; j < 8; ++j) radius[j] = -2.0f * log_unit(1.0f - values[j]);
  for (int j = 0; j < 8; ++j) sin_cos(float(2 * std::numbers::pi) * values[j + 8], sine[j], cosine[j]);
  for (int j = 0; j < 8; ++j) radius[j] = std::sqrt(radius[j]);
  for (int j = 0; j < 8; ++j) values[j] = radius[j] * cosine[j];
  for (int j = 0; j < 8; ++j) values[j + 8] = radius[j] * sine[j];
}

float round_to_f16(double value) { return f16_to_f32(f32_to_f16(float(value))); }

/// normal_block in half precision, where every intermediate result is rounded to half.
void normal_block_f16(float* values) {
  for (int j = 0; j < 8; ++j) {
    float u1 = round_to_f16(1.0f - values[j]), u2 = values[j + 8];
    float log_u1 = round_to_f16(std::log(u1));
    float radius = round_to_f16(std::sqrt(round_to_f16(-2.0f * log_u1)));
    float angle = round_to_f16(2 * std::numbers::pi * u2);
    values[j] = round_to_f16(radius * round_to_f16(std::cos(angle)));
    values[j + 8] = round_to_f16(radius * round_to_f16(std::sin(angle)));
  }
}

}  // namespace

RandomGenerator::RandomGenerator(uint64_t seed) {
  state_[0] = uint32_t(seed);
  for (uint32_t i = 1; i < kWords; ++i) state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + i;
}

/// The recurrence of MT19937 and its output scrambling for 624 words at once (Matsumoto and Nishimura 1998).
void RandomGenerator::refill() {
  constexpr int kShift = 397;
  auto twist = [this](int i, int next, int far) {
    uint32_t mixed = (state_[size_t(i)] & 0x80000000u) | (state_[size_t(next)] & 0x7fffffffu);
    state_[size_t(i)] = state_[size_t(far)] ^ (mixed >> 1) ^ ((0u - (mixed & 1u)) & 0x9908b0dfu);
  };
  for (int i = 0; i < kWords - kShift; ++i) twist(i, i + 1, i + kShift);
  for (int i = kWords - kShift; i < kWords - 1; ++i) twist(i, i + 1, i + kShift - kWords);
  twist(kWords - 1, 0, kShift - 1);
  for (size_t i = 0; i < kWords; ++i) {
    uint32_t y = state_[i];
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c5680u;
    y ^= (y << 15) & 0xefc60000u;
    ready_[i] = y ^ (y >> 18);
  }
  next_ = 0;
}

uint32_t RandomGenerator::bits32() {
  if (next_ == kWords) refill();
  return ready_[size_t(next_++)];
}

uint64_t RandomGenerator::bits64() {
  uint64_t high = bits32();
  return high << 32 | bits32();
}

double RandomGenerator::uniform53() { return double(bits64() & ((uint64_t(1) << 53) - 1)) * 0x1p-53; }

void RandomGenerator::rand(std::span<float> out) {
  for (size_t done = 0; done < out.size();) {
    if (next_ == kWords) refill();
    size_t piece = std::min(out.size() - done, size_t(kWords - next_));
    const uint32_t* from = ready_.data() + next_;
    for (size_t i = 0; i < piece; ++i) out[done + i] = float(int32_t(from[i] & 0x00ffffffu)) * 0x1p-24f;
    done += piece;
    next_ += int(piece);
  }
}

double RandomGenerator::small_normal() {
  if (kept_normal_) {
    double value = *kept_normal_;
    kept_normal_.reset();
    return value;
  }
  double u1 = uniform53();
  double u2 = uniform53();
  double radius = std::sqrt(-2.0 * std::log1p(-u2)), angle = 2 * std::numbers::pi * u1;
  kept_normal_ = radius * std::sin(angle);
  return radius * std::cos(angle);
}

void RandomGenerator::randn(std::span<float> out) {
  if (out.size() < kBlock) {
    for (float& value : out) value = float(small_normal());
    return;
  }
  // Piece by piece, so that the uniforms are still in the cache when they are transformed.
  constexpr size_t kPiece = 4096;
  size_t whole = out.size() / kBlock * kBlock;
  for (size_t begin = 0; begin < out.size(); begin += kPiece) {
    auto piece = out.subspan(begin, std::min(kPiece, out.size() - begin));
    rand(piece);
    for (size_t i = 0; i < piece.size() && begin + i < whole; i += kBlock) normal_block(&piece[i]);
  }
  if (whole != out.size()) {  // the last 16 values are drawn anew, over values that were normals already
    auto last = out.last(kBlock);
    rand(last);
    normal_block(last.data());
  }
}

void RandomGenerator::randn_f16(std::span<uint16_t> out) {
  if (out.size() < kBlock) {
    for (uint16_t& value : out) value = f32_to_f16(float(small_normal()));
    return;
  }
  auto uniforms = [this](std::span<float> values) {
    for (float& value : values) value = float(bits32() & 0x7ffu) * 0x1p-11f;  // as many bits as half precision has
  };
  std::vector<float> values(out.size());
  uniforms(values);
  size_t whole = out.size() / kBlock * kBlock;
  for (size_t i = 0; i < whole; i += kBlock) normal_block_f16(&values[i]);
  if (whole != out.size()) {
    auto last = std::span(values).last(kBlock);
    uniforms(last);
    normal_block_f16(last.data());
  }
  std::transform(values.begin(), values.end(), out.begin(), f32_to_f16);
}

void RandomGenerator::randint(int64_t low, int64_t high, std::span<int64_t> out) {
  if (high <= low || uint64_t(high) - uint64_t(low) > 0xffffffffull)
    fail(Code::InvalidArgument, "randint: the range from {} to {} should hold 1 to 2^32-1 integers", low, high);
  uint32_t range = uint32_t(uint64_t(high) - uint64_t(low));
  for (int64_t& value : out) value = low + int64_t(bits32() % range);
}

Tensor RandomGenerator::rand(std::vector<int64_t> shape) {
  Tensor out(DType::f32, std::move(shape));
  rand(out.f32());
  return out;
}

Tensor RandomGenerator::randn(std::vector<int64_t> shape, DType dtype) {
  if (dtype != DType::f32 && dtype != DType::f16) fail(Code::Unsupported, "randn gives f32 or f16, not {}", name(dtype));
  Tensor out(dtype, std::move(shape));
  if (dtype == DType::f32)
    randn(out.f32());
  else
    randn_f16({reinterpret_cast<uint16_t*>(out.data()), size_t(out.count())});
  return out;
}

Tensor prepare_noise(const std::vector<int64_t>& shape, uint64_t seed, std::span<const int64_t> batch_indices) {
  RandomGenerator generator(seed);
  if (batch_indices.empty()) return generator.randn(shape);
  if (shape.empty() || int64_t(batch_indices.size()) != shape[0])
    fail(Code::InvalidArgument, "noise of shape {} needs one batch index for each row, not {}", shape_text(shape),
         batch_indices.size());
  auto [least, most] = std::minmax_element(batch_indices.begin(), batch_indices.end());
  constexpr int64_t kMostIndex = 1 << 20;  // every draw before the wanted one is made; a wild index would hang
  if (*least < 0 || *most > kMostIndex)
    fail(Code::InvalidArgument, "the batch index {} is not between 0 and {}", *least < 0 ? *least : *most, kMostIndex);

  std::vector<int64_t> one = shape;
  one[0] = 1;
  Tensor out(DType::f32, shape), draw(DType::f32, one);
  for (int64_t i = 0; i <= *most; ++i) {
    generator.randn(draw.f32());
    for (size_t row = 0; row < batch_indices.size(); ++row)
      if (batch_indices[row] == i) std::ranges::copy(draw.f32(), out.f32().begin() + int64_t(row) * draw.count());
  }
  return out;
}

}  // namespace sinter
