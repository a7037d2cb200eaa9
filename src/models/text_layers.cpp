#include "models/text_layers.h"

#include <algorithm>
#include <charconv>

namespace sinter {

Value weight_rows(const Scope& s, std::string_view name, int64_t rows, int64_t width, Value indices) {
  Value table = s.weight(name, {rows, width});
  // Gather first: a table of 32128 rows of 4096 would otherwise be converted as a whole.
  if (table->op == &cast_op) return cast(embedding(table->inputs[0], indices), s.compute());
  return embedding(table, indices);
}

Value token_embeddings(const Scope& s, std::string_view table, int64_t vocabulary, int64_t width, Dim batch, Dim tokens) {
  Value ids = s.graph().input("token_ids", {DType::i64, {batch, tokens}});
  Value vectors = cast(s.graph().input("vectors", {DType::f32, {batch, tokens, width}}), s.compute());
  Value mask = cast(s.graph().input("vector_mask", {DType::f32, {batch, tokens, 1}}), s.compute());
  return elementwise("where", {mask, vectors, weight_rows(s, table, vocabulary, width, ids)});
}

int64_t count_blocks(const Weights& weights, const std::string& prefix) {
  int64_t count = 0;
  for (const std::string& name : weights.names()) {
    if (!name.starts_with(prefix)) continue;
    int64_t block = -1;
    std::from_chars(name.data() + prefix.size(), name.data() + name.size(), block);
    count = std::max(count, block + 1);
  }
  return count;
}

Value split_heads(Value x, int64_t heads) { return reshape(x, {x.dim(0), x.dim(1), heads, *exact_div(x.dim(2), heads)}); }

Value merge_heads(Value x) { return reshape(x, {x.dim(0), x.dim(1), x.dim(2) * x.dim(3)}); }

}  // namespace sinter
