#include "models/unet.h"

#include <cmath>

namespace sinter {
namespace {

constexpr double kResidualEpsilon = 1e-5, kTransformerEpsilon = 1e-6;
constexpr int64_t kHeadSize = 64, kFirstGenerationHeads = 8;
constexpr int64_t kFirstGenerationContext = 768;

// Detection.

int64_t transformer_depth(const Weights& w, const std::string& prefix) {
  int64_t depth = 0;
  while (w.has(prefix + "transformer_blocks." + std::to_string(depth) + ".norm1.weight")) ++depth;
  return depth;
}

std::string first_transformer(const Weights& w) {
  for (const char* part : {"input_blocks.", "middle_block", "output_blocks."})
    for (int n = 0; n < 64; ++n) {
      std::string prefix = std::string(part) + (part[0] == 'm' ? "" : std::to_string(n)) + ".1.";
      if (transformer_depth(w, prefix) > 0) return prefix;
    }
  return "";
}

int64_t context_width_of(const Weights& w, const std::string& transformer) {
  return transformer.empty() ? 0 : w.size(transformer + "transformer_blocks.0.attn2.to_k.weight", 1);
}

std::vector<UnetConfig::Level> detect_levels(const Weights& w) {
  std::vector<UnetConfig::Level> levels(1);
  for (int n = 1;; ++n) {
    std::string prefix = "input_blocks." + std::to_string(n) + ".";
    if (w.has(prefix + "0.op.weight")) {
      levels.emplace_back();
      continue;
    }
    if (!w.has(prefix + "0.in_layers.0.weight")) break;
    levels.back().channels = w.size(prefix + "0.out_layers.3.weight", 0);
    levels.back().down_depths.push_back(transformer_depth(w, prefix + "1."));
  }
  int n = 0;
  for (auto level = levels.rbegin(); level != levels.rend(); ++level) {
    if (level->down_depths.empty())
      fail(Code::Corrupt, "{}: level {} of the U-Net has no residual blocks", w.path(), levels.rend() - level - 1);
    for (size_t i = 0; i <= level->down_depths.size(); ++i)
      level->up_depths.push_back(transformer_depth(w, "output_blocks." + std::to_string(n++) + ".1."));
  }
  return levels;
}

int64_t detect_middle(const Weights& w) {
  if (!w.has("middle_block.0.in_layers.0.weight")) return -2;
  return w.has("middle_block.1.proj_in.weight") ? transformer_depth(w, "middle_block.1.") : -1;
}

// Blocks.

int64_t heads_of(const UnetConfig& c, int64_t channels) {
  int64_t heads = c.heads > 0 ? c.heads : c.head_size > 0 ? channels / c.head_size : 0;
  if (heads == 0 || channels % heads != 0)
    fail(Code::InvalidArgument, "U-Net: {} channels cannot be divided into {} heads", channels, heads);
  return heads;
}

Value attend(const Scope& s, const UnetConfig& c, Value x, Value context) {
  int64_t channels = x.dim(-1).constant(), heads = heads_of(c, channels), size = channels / heads;
  auto by_head = [&](Value v) { return reshape(v, {v.dim(0), v.dim(1), heads, size}); };
  Value q = by_head(linear_layer(s / "to_q", x, channels, false));
  Value k = by_head(linear_layer(s / "to_k", context, channels, false));
  Value v = by_head(linear_layer(s / "to_v", context, channels, false));
  Value attended = attention(q, k, v, {.scale = 1 / std::sqrt(double(size))});
  return linear_layer(s / "to_out" / 0, reshape(attended, x.shape()), channels);
}

/// Half of the widened features gate the other half (GEGLU of Shazeer 2020).
Value feed_forward(const Scope& s, Value x) {
  Dim channels = x.dim(-1);
  auto halves = split(linear_layer(s / "net" / 0 / "proj", x, channels * 8), {channels * 4, channels * 4}, -1);
  return linear_layer(s / "net" / 2, halves[0] * gelu(halves[1]), channels);
}

Value transformer_block(const Scope& s, const UnetConfig& c, Value x, Value context) {
  Value normal = layer_norm_layer(s / "norm1", x);
  x = x + attend(s / "attn1", c, normal, normal);
  x = x + attend(s / "attn2", c, layer_norm_layer(s / "norm2", x), context);
  return x + feed_forward(s / "ff", layer_norm_layer(s / "norm3", x));
}

Value projection(const Scope& s, const UnetConfig& c, Value x) {
  return c.linear_projections ? linear_layer(s, x, x.dim(-1)) : conv_layer(s, x, x.dim(-1), 1);
}

/// x[batch, height, width, channels]: pixels become tokens, pass through `depth` transformer blocks and are added to x.
Value spatial_transformer(const Scope& s, const UnetConfig& c, Value x, Value context, int64_t depth) {
  std::string at = " " + x.dim(-1).text();
  auto enter = [&](Scope in, std::vector<Value> v) {
    Value normal = group_norm_layer(in / "norm", v[0], kTransformerEpsilon);
    return std::vector{reshape(projection(in / "proj_in", c, normal), {x.dim(0), x.dim(1) * x.dim(2), x.dim(3)})};
  };
  auto leave = [&](Scope out, std::vector<Value> v) {
    return std::vector{v[1] + projection(out / "proj_out", c, reshape(v[0], x.shape()))};
  };
  Value tokens = s.block("to tokens" + at, {x}, enter)[0];
  for (int64_t i = 0; i < depth; ++i)
    tokens = (s / "transformer_blocks" / i).block("transformer" + at, {tokens, context}, [&](Scope in, std::vector<Value> v) {
      return std::vector{transformer_block(in, c, v[0], v[1])};
    })[0];
  return s.block("from tokens" + at, {tokens, x}, leave)[0];
}

/// `time` is the embedding after its activation, [batch, channels].
Value residual_block(const Scope& s, Value x, Value time, int64_t channels) {
  Value h = silu(group_norm_layer(s / "in_layers" / 0, x, kResidualEpsilon));
  h = conv_layer(s / "in_layers" / 2, h, channels, 3, 1, 1);
  h = h + reshape(linear_layer(s / "emb_layers" / 1, time, channels), {x.dim(0), 1, 1, channels});
  h = silu(group_norm_layer(s / "out_layers" / 0, h, kResidualEpsilon));
  h = conv_layer(s / "out_layers" / 3, h, channels, 3, 1, 1);
  return (x.dim(-1) == Dim(channels) ? x : conv_layer(s / "skip_connection", x, channels, 1)) + h;
}

/// The parts that every residual block and transformer needs beside its input.
struct Conditions {
  Value time, context;
};

/// `inputs`: one, or two that are joined by channels.
Value residual(const Scope& s, std::vector<Value> inputs, const Conditions& on, int64_t channels) {
  Dim in = inputs[0].dim(-1);
  if (inputs.size() > 1) in = in + inputs[1].dim(-1);
  inputs.push_back(on.time);
  return s.block("residual " + in.text() + " to " + std::to_string(channels), inputs, [&](Scope inner, std::vector<Value> v) {
    Value time = v.back();
    v.pop_back();
    return std::vector{residual_block(inner, v.size() > 1 ? concat(v, -1) : v[0], time, channels)};
  })[0];
}

Value time_embedding(const Scope& s, const UnetConfig& c, Value timesteps, Value y) {
  auto two_layers = [&](const Scope& at, Value v) {
    return linear_layer(at / 2, silu(linear_layer(at / 0, v, 4 * c.channels)), 4 * c.channels);
  };
  Value time = two_layers(s / "time_embed", cast(timestep_embedding(timesteps, c.channels), s.compute()));
  if (y) time = time + two_layers(s / "label_emb" / 0, y);
  return silu(time);
}

/// Features of each input block, the finest first.
std::vector<Value> down(const Scope& blocks, const UnetConfig& c, Value x, const Conditions& on) {
  std::vector<Value> skips{conv_layer(blocks / 0 / 0, x, c.channels, 3, 1, 1)};
  for (const auto& level : c.levels) {
    if (&level != &c.levels.front())
      skips.push_back(conv_layer(blocks / int64_t(skips.size()) / 0 / "op", skips.back(), skips.back().dim(-1), 3, 2, 1));
    for (int64_t depth : level.down_depths) {
      Scope s = blocks / int64_t(skips.size());
      Value h = residual(s / 0, {skips.back()}, on, level.channels);
      skips.push_back(depth > 0 ? spatial_transformer(s / 1, c, h, on.context, depth) : h);
    }
  }
  return skips;
}

Value middle(const Scope& s, const UnetConfig& c, Value x, const Conditions& on) {
  int64_t channels = x.dim(-1).constant();
  if (c.middle_depth >= -1) x = residual(s / 0, {x}, on, channels);
  if (c.middle_depth < 0) return x;
  x = spatial_transformer(s / 1, c, x, on.context, c.middle_depth);
  return residual(s / 2, {x}, on, channels);
}

Value up(const Scope& blocks, const UnetConfig& c, Value x, std::vector<Value> skips, const Conditions& on) {
  int64_t n = 0;
  for (auto level = c.levels.rbegin(); level != c.levels.rend(); ++level) {
    for (int64_t depth : level->up_depths) {
      Scope s = blocks / n++;
      x = residual(s / 0, {x, skips.back()}, on, level->channels);
      skips.pop_back();
      if (depth > 0) x = spatial_transformer(s / 1, c, x, on.context, depth);
    }
    if (skips.empty()) break;
    // To the size of the skip that comes next: sizes were rounded up on the way down.
    Value larger = resize_nearest(x, skips.back().dim(1), skips.back().dim(2));
    x = conv_layer(blocks / (n - 1) / (level->up_depths.back() > 0 ? 2 : 1) / "conv", larger, x.dim(-1), 3, 1, 1);
  }
  return x;
}

}  // namespace

UnetConfig sd15_unet_config() {
  UnetConfig c;
  c.levels = {{320, {1, 1}, {1, 1, 1}}, {640, {1, 1}, {1, 1, 1}}, {1280, {1, 1}, {1, 1, 1}}, {1280, {0, 0}, {0, 0, 0}}};
  return c;
}

UnetConfig sdxl_unet_config() {
  UnetConfig c;
  c.context_width = 2048;
  c.vector_width = 2816;
  c.heads = 0;
  c.head_size = kHeadSize;
  c.linear_projections = true;
  c.levels = {{320, {0, 0}, {0, 0, 0}}, {640, {2, 2}, {2, 2, 2}}, {1280, {10, 10}, {10, 10, 10}}};
  c.middle_depth = 10;
  return c;
}

bool is_first_generation_unet(const Weights& w) {
  if (w.has("label_emb.0.0.weight")) return false;
  std::string transformer = first_transformer(w);
  if (transformer.empty()) return false;
  return context_width_of(w, transformer) == kFirstGenerationContext || w.shape(transformer + "proj_in.weight").size() == 4;
}

UnetConfig detect_unet(const Weights& w) {
  UnetConfig c;
  c.channels = w.size("input_blocks.0.0.weight", 0);
  c.in_channels = w.size("input_blocks.0.0.weight", 1);
  c.out_channels = w.size("out.2.weight", 0);
  if (w.has("label_emb.0.0.weight")) c.vector_width = w.size("label_emb.0.0.weight", 1);
  c.levels = detect_levels(w);
  c.middle_depth = detect_middle(w);
  std::string transformer = first_transformer(w);
  c.context_width = context_width_of(w, transformer);
  c.linear_projections = !transformer.empty() && w.shape(transformer + "proj_in.weight").size() == 2;
  bool first = is_first_generation_unet(w);
  c.heads = w.tiny_config("unet", "num_heads", first ? kFirstGenerationHeads : 0);
  c.head_size = w.tiny_config("unet", "num_head_channels", first ? 0 : kHeadSize);
  return c;
}

void build_unet(Graph& graph, const UnetConfig& c, const UnetSizes& sizes, const BuildOptions& options) {
  Scope s(graph, options);
  auto input = [&](const char* name, Shape shape) {
    return cast(graph.input(name, {DType::f32, std::move(shape)}), s.compute());
  };
  Value x = input("x", {sizes.batch, c.in_channels, sizes.height, sizes.width});
  Value timesteps = graph.input("timesteps", {DType::f32, {sizes.batch}});
  Conditions on;
  if (c.context_width > 0) on.context = input("context", {sizes.batch, sizes.context_tokens, c.context_width});
  Value y = c.vector_width > 0 ? input("y", {sizes.batch, c.vector_width}) : Value();

  on.time = time_embedding(s, c, timesteps, y);
  std::vector<Value> skips = down(s / "input_blocks", c, transpose(x, {0, 2, 3, 1}), on);
  Value h = middle(s / "middle_block", c, skips.back(), on);
  h = up(s / "output_blocks", c, h, skips, on);
  h = silu(group_norm_layer(s / "out" / 0, h, kResidualEpsilon));
  h = conv_layer(s / "out" / 2, h, c.out_channels, 3, 1, 1);
  graph.output("out", cast(transpose(h, {0, 3, 1, 2}), DType::f32));
}

}  // namespace sinter
