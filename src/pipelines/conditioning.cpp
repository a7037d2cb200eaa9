#include "pipelines/conditioning.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/error.h"

namespace sinter {
namespace {

void expect(bool fits, const char* what, const Tensor& a, const Tensor& b) {
  if (!fits)
    fail(Code::InvalidArgument, "{}: the shapes {} and {} do not fit", what, shape_text(a.shape()), shape_text(b.shape()));
}

/// The place of the first end token; the last place where there is none.
int64_t end_place(const std::vector<Token>& chunk, int64_t end_id) {
  auto found = std::ranges::find_if(chunk, [&](const Token& t) { return t.vector < 0 && t.id == end_id; });
  return found == chunk.end() ? int64_t(chunk.size()) - 1 : found - chunk.begin();
}

}  // namespace

EncoderInputs encoder_inputs(std::span<const std::vector<Token>> chunks, std::span<const Tensor> vectors, int64_t width,
                             int64_t end_id) {
  const int64_t batch = int64_t(chunks.size()), tokens = chunks.empty() ? 0 : int64_t(chunks[0].size());
  std::vector<int64_t> ids, ends;
  EncoderInputs inputs;
  inputs.vectors = Tensor(DType::f32, {batch, tokens, width});
  inputs.vector_mask = Tensor(DType::f32, {batch, tokens, 1});
  for (const std::vector<Token>& chunk : chunks) {
    if (int64_t(chunk.size()) != tokens)
      fail(Code::InvalidArgument, "sequences of one batch must have one length, not {} and {} tokens", tokens, chunk.size());
    ends.push_back(int64_t(ends.size()) * tokens + end_place(chunk, end_id));
    for (const Token& token : chunk) {
      size_t place = ids.size();
      ids.push_back(token.vector < 0 ? token.id : 0);
      if (token.vector < 0) continue;
      const Tensor vector = vectors[size_t(token.vector)].to(DType::f32);
      if (vector.count() != width)
        fail(Code::InvalidArgument, "a textual inversion has vectors of {} numbers, but this text encoder is {} wide",
             vector.count(), width);
      std::ranges::copy(vector.f32(), inputs.vectors.f32().begin() + int64_t(place) * width);
      inputs.vector_mask.f32()[place] = 1;
    }
  }
  inputs.token_ids = Tensor::of_ints({batch, tokens}, ids);
  inputs.end_rows = Tensor::of_ints({batch}, ends);
  return inputs;
}

std::vector<Token> empty_chunk(const Tokenizer& tokenizer, int64_t pad_id, int64_t length) {
  std::vector<Token> chunk;
  if (tokenizer.start_id()) chunk.push_back({.id = *tokenizer.start_id()});
  chunk.push_back({.id = tokenizer.end_id()});
  chunk.resize(size_t(length), {.id = pad_id});
  return chunk;
}

bool has_weights(std::span<const std::vector<Token>> chunks) {
  return std::ranges::any_of(chunks, [](const std::vector<Token>& chunk) {
    return std::ranges::any_of(chunk, [](const Token& token) { return token.weight != 1; });
  });
}

Tensor apply_token_weights(const Tensor& hidden, const Tensor& empty, std::span<const std::vector<Token>> chunks) {
  const int64_t count = hidden.dim(0), tokens = hidden.dim(1), width = hidden.dim(2);
  bool fits = count == int64_t(chunks.size());
  for (const std::vector<Token>& chunk : chunks) fits = fits && int64_t(chunk.size()) == tokens;
  if (!fits)
    fail(Code::InvalidArgument, "token weights: the hidden states {} are not of these chunks", shape_text(hidden.shape()));
  Tensor out = hidden.clone().reshaped({1, count * tokens, width});
  if (!has_weights(chunks)) return out;
  expect(empty.rank() == 3 && empty.dim(1) == tokens && empty.dim(2) == width, "token weights", hidden, empty);
  auto values = out.f32();
  auto origin = empty.f32();
  for (int64_t row = 0; row < count * tokens; ++row) {
    float weight = chunks[size_t(row / tokens)][size_t(row % tokens)].weight;
    if (weight == 1) continue;
    for (int64_t i = 0; i < width; ++i) {
      float from = origin[size_t(row % tokens * width + i)];
      float& value = values[size_t(row * width + i)];
      value = (value - from) * weight + from;
    }
  }
  return out;
}

Tensor join_features(const Tensor& a, const Tensor& b) {
  expect(a.rank() == 3 && b.rank() == 3 && a.dim(0) == b.dim(0), "features of two text encoders", a, b);
  const int64_t batch = a.dim(0), tokens = std::min(a.dim(1), b.dim(1)), left = a.dim(2), right = b.dim(2);
  Tensor out(DType::f32, {batch, tokens, left + right});
  float* to = out.f32().data();
  for (int64_t n = 0; n < batch; ++n)
    for (int64_t t = 0; t < tokens; ++t) {
      to = std::copy_n(a.f32().data() + (n * a.dim(1) + t) * left, left, to);
      to = std::copy_n(b.f32().data() + (n * b.dim(1) + t) * right, right, to);
    }
  return out;
}

Tensor sdxl_vector(const Tensor& pooled, const SizeConditioning& sizes) {
  constexpr int64_t kWaves = 256;
  const std::array<int64_t, 6> numbers = {sizes.height,    sizes.width,         sizes.crop_top,
                                          sizes.crop_left, sizes.target_height, sizes.target_width};
  std::vector<float> waves;
  for (int64_t number : numbers)
    for (int64_t i = 0; i < kWaves; ++i) {
      // Frequencies are rounded to float where the reference rounds them.
      float frequency = std::exp(float(-std::log(10000.0)) * float(i % (kWaves / 2)) / float(kWaves / 2));
      float angle = float(number) * frequency;
      waves.push_back(i < kWaves / 2 ? std::cos(angle) : std::sin(angle));
    }
  const int64_t batch = pooled.dim(0), width = pooled.dim(1);
  Tensor out(DType::f32, {batch, width + int64_t(waves.size())});
  float* to = out.f32().data();
  for (int64_t n = 0; n < batch; ++n) {
    to = std::copy_n(pooled.f32().data() + n * width, width, to);
    to = std::ranges::copy(waves, to).out;
  }
  return out;
}

}  // namespace sinter
