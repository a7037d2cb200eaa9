#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"
#include "text/tokenizer.h"

namespace sinter {

/// A run of text with one weight.
struct WeightedText {
  std::string text;
  double weight = 1;
  bool operator==(const WeightedText&) const = default;
};

/// ComfyUI's prompt syntax: (text) multiplies the weight by 1.1, (text:1.3) sets it, also inside others; \( and \) are plain
/// parentheses. Text after the last colon that is not a number belongs to the text. Code::InvalidArgument for a weight that is
/// not finite, parentheses nested deeper than 500 and text that is not UTF-8.
std::vector<WeightedText> parse_prompt_weights(std::string_view prompt);

/// One place of a sequence: an id, or a row of TokenizedPrompt::vectors where `vector` is not negative.
struct Token {
  int64_t id = 0;
  float weight = 1;
  int64_t word = 0;  ///< 1-based index of the run of text it comes from; 0 for start, end and padding
  int64_t vector = -1;
};

struct TokenizedPrompt {
  std::vector<std::vector<Token>> chunks;
  std::vector<Tensor> vectors;         ///< of textual inversions, each [width]
  std::vector<std::string> not_found;  ///< names of embeddings that the prompt asks for and nobody has; they are left out
};

/// How a text encoder wants its sequences.
struct ChunkRules {
  int64_t length = 77;       ///< of each chunk, start and end included, filled with `pad_id`; 0: one chunk however long
  int64_t least_length = 0;  ///< chunks are filled with `pad_id` up to this
  int64_t pad_id = 0;
};
ChunkRules clip_l_rules(const Tokenizer& tokenizer);  ///< 77, filled with the end id
ChunkRules clip_g_rules();                            ///< 77, filled with 0
ChunkRules t5_rules();                                ///< one chunk of at least 256, filled with 0

/// The textual inversion of that name: [width] or [n, width] of the encoder in question; nothing where there is none.
using EmbeddingLookup = std::function<std::optional<Tensor>(const std::string& name)>;

/// The chunks that ComfyUI makes of a prompt. A run of text of 8 or more tokens is cut where a chunk is full, a shorter one moves
/// to the next chunk whole. Without a lookup `embedding:name` is ordinary text. tests/golden/prompts_golden.cpp compares with the
/// reference.
TokenizedPrompt tokenize_prompt(std::string_view prompt, const Tokenizer& tokenizer, const ChunkRules& rules,
                                const EmbeddingLookup& embeddings = {});

}  // namespace sinter
