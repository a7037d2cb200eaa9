#pragma once
#include <span>
#include <vector>

#include "tensor/tensor.h"
#include "text/prompt.h"

namespace sinter {

// Between the tokenizer and the denoiser: what a text encoder's graph takes, and what prompts' weights do to what it gives.

/// The inputs that graphs of text encoders have (models/text_layers.h), and `end_rows` of CLIP (models/clip.h).
struct EncoderInputs {
  Tensor token_ids, vectors, vector_mask, end_rows;
};
/// For a batch of sequences of one length. `vectors` are those of TokenizedPrompt; Code::InvalidArgument where one has another
/// width than the encoder.
EncoderInputs encoder_inputs(std::span<const std::vector<Token>> chunks, std::span<const Tensor> vectors, int64_t width,
                             int64_t end_id);

/// The encoding of no prompt, of `length` tokens: start and end where the vocabulary has them, then padding.
std::vector<Token> empty_chunk(const Tokenizer& tokenizer, int64_t pad_id, int64_t length);
bool has_weights(std::span<const std::vector<Token>> chunks);

/// Moves each token of hidden[chunks, tokens, width] to (z - empty) * weight + empty, `empty`[1, tokens, width] being the
/// encoding of empty_chunk, and puts the chunks one behind the other: [1, chunks * tokens, width]. Without weights `empty` may be
/// empty.
Tensor apply_token_weights(const Tensor& hidden, const Tensor& empty, std::span<const std::vector<Token>> chunks);

/// Features of two encoders side by side, cut to the shorter one: [1, tokens, width of a + width of b].
Tensor join_features(const Tensor& a, const Tensor& b);

/// The sizes in pixels that SDXL is told.
struct SizeConditioning {
  int64_t height = 1024, width = 1024, crop_top = 0, crop_left = 0, target_height = 1024, target_width = 1024;
};
/// SDXL's `y`: pooled[batch, width], then each size as 256 waves: [batch, width + 1536].
Tensor sdxl_vector(const Tensor& pooled, const SizeConditioning& sizes);

}  // namespace sinter
