#pragma once
#include <string>

#include "graph/graph.h"

namespace sinter {

/// Rewrites self-attention of bf16 over at least `least_keys` tokens (a symbolic number counts as enough) whose queries and keys
/// are normalised, with or without turned pairs, to fp8_attention_op. What makes q, k and v then stores them as f8e4m3: q and k
/// in units known from the norms' weights, v in one found from its largest magnitude.
void use_fp8_attention(const Graph& from, Graph& to, int64_t least_keys);

/// Empty where an attention of the graph, or of functions that it calls, would be rewritten; else why none is.
std::string why_no_fp8_attention(const Graph& graph, int64_t least_keys);

}  // namespace sinter
