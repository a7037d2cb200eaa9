#pragma once
#include "models/scope.h"
#include "models/weights.h"

namespace sinter {

/// Token embeddings [batch, tokens, width] from the inputs every text encoder has:
///   token_ids i64[batch, tokens]             rows of `table`
///   vectors f32[batch, tokens, width]        textual inversion: given rows (elsewhere zero) ...
///   vector_mask f32[batch, tokens, 1]        ... that count where this is 1
/// So one program serves prompts with and without textual inversion. `table` names the weight [vocabulary, width].
Value token_embeddings(const Scope& s, std::string_view table, int64_t vocabulary, int64_t width, Dim batch, Dim tokens);

/// Rows of the weight `name` [rows, width] at `indices`, in the compute type. Only rows that are used are converted.
Value weight_rows(const Scope& s, std::string_view name, int64_t rows, int64_t width, Value indices);

/// How many blocks "prefix0.", "prefix1.", ... have weights.
int64_t count_blocks(const Weights& weights, const std::string& prefix);

/// x[batch, tokens, heads * size] -> [batch, tokens, heads, size], and back.
Value split_heads(Value x, int64_t heads);
Value merge_heads(Value x);

}  // namespace sinter
