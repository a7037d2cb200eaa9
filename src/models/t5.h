#pragma once
#include "models/scope.h"
#include "models/weights.h"

namespace sinter {

/// The encoder of T5 v1.1 (Raffel et al. 2020, with gated GELU): T5-XXL of FLUX.
struct T5Config {
  int64_t width = 4096;
  int64_t heads = 64;
  int64_t head_size = 64;
  int64_t layers = 24;
  int64_t mlp = 10240;
  int64_t vocabulary = 32128;
  int64_t buckets = 32;        ///< of relative positions
  int64_t max_distance = 128;  ///< from which on all positions share a bucket
  bool operator==(const T5Config&) const = default;
};
/// From weights under Hugging Face names ("encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight").
T5Config detect_t5(const Weights& weights);

/// Inputs: those of token_embeddings (text_layers.h) and `buckets` i64[tokens, tokens], which position_buckets gives.
/// Output f32: last_hidden [batch, tokens, width], after the final norm. There is no mask: padding takes part, as in the
/// reference.
void build_t5(Graph& graph, const T5Config& config, Dim batch, Dim tokens, const BuildOptions& options = {});

/// For each query (row) and key (column) the bucket of their distance: buckets/2 for each direction, of which half are exact and
/// the rest spaced evenly in the logarithm up to max_distance. Computed without rounding; t5_test.cpp compares with the formula
/// in float, where those can differ.
Tensor position_buckets(const T5Config& config, int64_t tokens);

}  // namespace sinter
