#pragma once
// What the files of ImageModel share; nobody else includes it.
#include <numeric>
#include <span>

#include "models/t5.h"
#include "pipelines/image_model.h"

namespace sinter {
namespace image_model {

// The symbols of its graphs. Height and width are those of latents.
inline const Dim kBatch = Dim::symbol("batch"), kHeight = Dim::symbol("height"), kWidth = Dim::symbol("width");
inline const Dim kText = Dim::symbol("text");
inline const Dim kPictureHeight = Dim::symbol("picture_height"), kPictureWidth = Dim::symbol("picture_width");

/// Tokens of prompts of these lengths as one batch: each is repeated to a multiple of all. 0 where one would be repeated so often
/// that it costs more than it saves, and each goes by itself; the reference draws the line here.
inline int64_t tokens_together(std::span<const int64_t> lengths) {
  constexpr int64_t kMostRepeats = 4;
  int64_t tokens = 1;
  for (int64_t length : lengths) tokens = std::lcm(tokens, length);
  for (int64_t length : lengths)
    if (tokens / length > kMostRepeats) return 0;
  return tokens;
}

/// More are not computed before a run.
inline constexpr int kMostTimesteps = 256;

/// Tiles that a decode falls back to, in latent elements, the largest first; with the overlaps of `overlapping`.
inline constexpr int64_t kTiles[] = {64, 48, 32};
inline DecodeTiles overlapping(int64_t tile) { return {tile, tile / 4 - tile % 4}; }

inline bool is_flux(const Family& family) { return family.prediction == Prediction::Flow; }
inline bool is_sdxl(const Family& family) { return &family == &sdxl_family; }

}  // namespace image_model

/// One text encoder with its tokenizer and what is taken from it.
struct ImageModel::TextEncoder {
  Component component;
  const Tokenizer* tokenizer;
  ChunkRules rules;
  int64_t width = 0;
  bool is_t5 = false;
  bool has_hidden = true;
  bool has_pooled = false;
  T5Config t5;
  std::unique_ptr<Network> network;
};

}  // namespace sinter
