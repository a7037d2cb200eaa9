#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "tensor/tensor.h"

namespace sinter {

/// The stream of random numbers that PyTorch's CPU generator gives after manual_seed(seed): the same integers and uniforms,
/// normals up to the rounding of log, sin and cos (random_test.cpp compares with recorded draws). MT19937 on the low 32 bits of
/// the seed.
class RandomGenerator {
 public:
  explicit RandomGenerator(uint64_t seed);

  /// The next 32 bits, and the next two draws as high and low word.
  uint32_t bits32();
  uint64_t bits64();

  /// Uniform in [0, 1), multiples of 2^-24.
  void rand(std::span<float> out);
  /// Standard normal. Fewer than 16 values come from another algorithm than 16 or more, so the number asked for at once matters.
  void randn(std::span<float> out);
  /// Integers in [low, high), high - low below 2^32. Code::InvalidArgument for an empty range.
  void randint(int64_t low, int64_t high, std::span<int64_t> out);

  Tensor rand(std::vector<int64_t> shape);
  /// f32, or f16: half precision has a stream of its own, it is not the f32 stream rounded.
  Tensor randn(std::vector<int64_t> shape, DType dtype = DType::f32);

 private:
  void refill();
  double uniform53();
  double small_normal();
  void randn_f16(std::span<uint16_t> out);

  static constexpr int kWords = 624;
  std::array<uint32_t, kWords> state_;
  std::array<uint32_t, kWords> ready_;
  int next_ = kWords;
  std::optional<double> kept_normal_;  ///< the sine half of the last pair of a small call; survives large calls
};

/// The start noise for a latent of this shape. With `batch_indices` (one for each row of the batch) row i is the draw number
/// batch_indices[i] of a batch drawn one by one, so that one picture of a batch can be made again alone.
Tensor prepare_noise(const std::vector<int64_t>& shape, uint64_t seed, std::span<const int64_t> batch_indices = {});

}  // namespace sinter
