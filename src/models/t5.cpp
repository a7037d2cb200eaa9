#include "models/t5.h"

#include <algorithm>

#include "models/text_layers.h"

namespace sinter {

T5Config detect_t5(const Weights& weights) {
  T5Config c;
  const std::string attention = "encoder.block.0.layer.0.SelfAttention.";
  c.vocabulary = weights.size("shared.weight", 0);
  c.width = weights.size("shared.weight", 1);
  c.buckets = weights.size(attention + "relative_attention_bias.weight", 0);
  c.heads = weights.size(attention + "relative_attention_bias.weight", 1);
  int64_t inner = weights.size(attention + "q.weight", 0);
  if (c.heads <= 0 || inner % c.heads != 0)
    fail(Code::Unsupported, "{}: T5 attention of width {} cannot have {} heads", weights.path(), inner, c.heads);
  c.head_size = inner / c.heads;
  c.mlp = weights.size("encoder.block.0.layer.1.DenseReluDense.wi_0.weight", 0);
  c.layers = count_blocks(weights, "encoder.block.");
  if (weights.has("encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"))
    fail(Code::Unsupported, "{}: every layer has its own relative positions, which is UMT5; a T5 v1.1 encoder is expected",
         weights.path());
  return c;
}

Tensor position_buckets(const T5Config& c, int64_t tokens) {
  const int64_t half = c.buckets / 2, exact = half / 2, spaced = half - exact;
  // Bucket exact + n begins where (distance / exact)^spaced reaches (max_distance / exact)^n: found once for each distance.
  auto bucket_of = [&](int64_t distance) -> int64_t {
    if (distance < exact) return distance;
    int64_t n = 0;
    for (; n + 1 < spaced; ++n) {
      long double left = 1, right = 1;
      for (int64_t i = 0; i < spaced; ++i) left *= (long double)(distance) / (long double)(exact);
      for (int64_t i = 0; i <= n; ++i) right *= (long double)(c.max_distance) / (long double)(exact);
      if (left < right) break;
    }
    return exact + n;
  };
  std::vector<int64_t> by_distance;
  for (int64_t distance = 0; distance < tokens; ++distance) by_distance.push_back(bucket_of(distance));
  std::vector<int64_t> buckets;
  buckets.reserve(size_t(tokens * tokens));
  for (int64_t query = 0; query < tokens; ++query)
    for (int64_t key = 0; key < tokens; ++key)
      buckets.push_back((key > query ? half : 0) + by_distance[size_t(std::abs(key - query))]);
  return Tensor::of_ints({tokens, tokens}, buckets);
}

namespace {

Value rms_norm_layer(Scope s, Value x) {
  Value scale = s.weight("weight", {x.dim(-1)});
  return rms_norm(x, 1e-6) * scale;
}

/// [1, heads, tokens, tokens], added to the scores of every layer.
Value position_bias(Scope s, const T5Config& c, Value buckets) {
  Value rows = weight_rows(s, "relative_attention_bias.weight", c.buckets, c.heads, buckets);
  Dim tokens = buckets.dim(0);
  return reshape(transpose(rows, {2, 0, 1}), {1, c.heads, tokens, tokens});
}

Value self_attention(Scope s, const T5Config& c, Value x, Value bias) {
  Value q = split_heads(linear_layer(s / "q", x, c.heads * c.head_size, false), c.heads);
  Value k = split_heads(linear_layer(s / "k", x, c.heads * c.head_size, false), c.heads);
  Value v = split_heads(linear_layer(s / "v", x, c.heads * c.head_size, false), c.heads);
  // T5 does not scale its scores: the initialisation did.
  return linear_layer(s / "o", merge_heads(attention(q, k, v, {.scale = 1}, bias)), c.width, false);
}

Value feed_forward(Scope s, const T5Config& c, Value x) {
  Value gate = gelu_tanh(linear_layer(s / "wi_0", x, c.mlp, false));
  Value inner = gate * linear_layer(s / "wi_1", x, c.mlp, false);
  return linear_layer(s / "wo", inner, c.width, false);
}

Value encoder_block(Scope s, const T5Config& c, Value x, Value bias) {
  Scope first = s / "layer" / 0, second = s / "layer" / 1;
  x = x + self_attention(first / "SelfAttention", c, rms_norm_layer(first / "layer_norm", x), bias);
  return x + feed_forward(second / "DenseReluDense", c, rms_norm_layer(second / "layer_norm", x));
}

}  // namespace

void build_t5(Graph& graph, const T5Config& c, Dim batch, Dim tokens, const BuildOptions& options) {
  Scope s(graph, options);
  Value x = token_embeddings(s, "shared.weight", c.vocabulary, c.width, batch, tokens);
  Value buckets = graph.input("buckets", {DType::i64, {tokens, tokens}});
  Scope blocks = s / "encoder" / "block";
  Value bias = position_bias(blocks / 0 / "layer" / 0 / "SelfAttention", c, buckets);
  for (int64_t i = 0; i < c.layers; ++i)
    x = (blocks / i).block("t5 block", {x, bias}, [&](Scope b, std::vector<Value> v) {
      return std::vector<Value>{encoder_block(b, c, v[0], v[1])};
    })[0];
  graph.output("last_hidden", cast(rms_norm_layer(s / "encoder" / "final_layer_norm", x), DType::f32));
}

}  // namespace sinter
