#include "models/clip.h"

#include <algorithm>
#include <cmath>

#include "models/text_layers.h"

namespace sinter {

ClipConfig clip_l_config() { return {}; }
ClipConfig clip_g_config() { return {.width = 1280, .heads = 20, .layers = 32, .mlp = 5120, .exact_gelu = true}; }

ClipConfig detect_clip(const Weights& weights, ClipKind kind) {
  ClipConfig c;
  c.vocabulary = weights.size("text_model.embeddings.token_embedding.weight", 0);
  c.width = weights.size("text_model.embeddings.token_embedding.weight", 1);
  c.positions = weights.size("text_model.embeddings.position_embedding.weight", 0);
  c.mlp = weights.size("text_model.encoder.layers.0.mlp.fc1.weight", 0);
  c.layers = count_blocks(weights, "text_model.encoder.layers.");
  c.heads = weights.tiny_config(kind == ClipKind::g ? "clip_g" : "clip_l", "num_attention_heads", c.width / 64);
  if (c.heads <= 0 || c.width % c.heads != 0)
    fail(Code::Unsupported, "{}: a CLIP text encoder of width {} cannot have {} heads", weights.path(), c.width, c.heads);
  c.exact_gelu = kind == ClipKind::g;
  return c;
}

namespace {

Value self_attention(Scope s, const ClipConfig& c, Value x) {
  Value q = split_heads(linear_layer(s / "q_proj", x, c.width), c.heads);
  Value k = split_heads(linear_layer(s / "k_proj", x, c.width), c.heads);
  Value v = split_heads(linear_layer(s / "v_proj", x, c.width), c.heads);
  double scale = 1.0 / std::sqrt(double(c.width / c.heads));
  return linear_layer(s / "out_proj", merge_heads(attention(q, k, v, {.scale = scale, .causal = true})), c.width);
}

Value feed_forward(Scope s, const ClipConfig& c, Value x) {
  Value inner = linear_layer(s / "fc1", x, c.mlp);
  return linear_layer(s / "fc2", c.exact_gelu ? gelu(inner) : quick_gelu(inner), c.width);
}

Value encoder_layer(Scope s, const ClipConfig& c, Value x) {
  x = x + self_attention(s / "self_attn", c, layer_norm_layer(s / "layer_norm1", x));
  return x + feed_forward(s / "mlp", c, layer_norm_layer(s / "layer_norm2", x));
}

/// How many layers must run before this output can be taken.
int64_t layers_needed(const ClipConfig& c, const ClipOutput& output) {
  if (output.kind != ClipOutput::hidden) return c.layers;
  int64_t layer = output.layer < 0 ? output.layer + c.layers : output.layer;
  if (layer < 0 || layer >= c.layers)
    fail(Code::InvalidArgument, "the layer {} does not exist: this text encoder has {} (-1 is the last, -{} the first)",
         output.layer, c.layers, c.layers);
  return layer + 1;
}

/// Rows of x[batch, positions, width] at `end_rows`.
Value pool(Graph& graph, const ClipConfig& c, Value x) {
  Value rows = graph.input("end_rows", {DType::i64, {x.dim(0)}});
  return embedding(reshape(x, {x.dim(0) * x.dim(1), c.width}), rows);
}

}  // namespace

void build_clip(Graph& graph, const ClipConfig& c, Dim batch, const std::vector<ClipOutput>& outputs,
                const BuildOptions& options) {
  Scope s(graph, options);
  Scope text = s / "text_model";
  Value x = token_embeddings(text, "embeddings.token_embedding.weight", c.vocabulary, c.width, batch, c.positions);
  x = x + (text / "embeddings").weight("position_embedding.weight", {c.positions, c.width});

  int64_t layers = 0;
  for (const ClipOutput& output : outputs) layers = std::max(layers, layers_needed(c, output));
  std::vector<Value> after{x};
  for (int64_t i = 0; i < layers; ++i)
    after.push_back((text / "encoder" / "layers" / i).block("clip layer", {after.back()}, [&](Scope b, std::vector<Value> v) {
      return std::vector<Value>{encoder_layer(b, c, v[0])};
    })[0]);

  auto normed = [&](Value state) { return layer_norm_layer(text / "final_layer_norm", state); };
  for (const ClipOutput& output : outputs) {
    Value state = after[size_t(layers_needed(c, output))];
    if (output.kind == ClipOutput::hidden) {
      graph.output(output.name, cast(output.final_norm ? normed(state) : state, DType::f32));
      continue;
    }
    Value pooled = pool(graph, c, normed(state));
    if (output.kind == ClipOutput::projected) pooled = linear_layer(s / "text_projection", pooled, c.width, false);
    graph.output(output.name, cast(pooled, DType::f32));
  }
}

}  // namespace sinter
