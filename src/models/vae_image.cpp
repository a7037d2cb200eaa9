#include "models/vae_image.h"

#include <cmath>

namespace sinter {
namespace {

constexpr double kEpsilon = 1e-6;

Value residual_block(const Scope& s, Value x, int64_t channels) {
  Value h = conv_layer(s / "conv1", silu(group_norm_layer(s / "norm1", x, kEpsilon)), channels, 3, 1, 1);
  h = conv_layer(s / "conv2", silu(group_norm_layer(s / "norm2", h, kEpsilon)), channels, 3, 1, 1);
  return (x.dim(-1) == Dim(channels) ? x : conv_layer(s / "nin_shortcut", x, channels, 1)) + h;
}

/// Every pixel sees every other: one head as wide as the features.
Value pixel_attention(const Scope& s, Value x) {
  Value normal = group_norm_layer(s / "norm", x, kEpsilon);
  auto tokens = [&](const char* name) {
    return reshape(conv_layer(s / name, normal, x.dim(-1), 1), {x.dim(0), x.dim(1) * x.dim(2), 1, x.dim(3)});
  };
  Value q = tokens("q"), k = tokens("k"), v = tokens("v");
  Value attended = attention(q, k, v, {.scale = 1 / std::sqrt(double(x.dim(-1).constant()))});
  return x + conv_layer(s / "proj_out", reshape(attended, x.shape()), x.dim(-1), 1);
}

Value residual(const Scope& s, Value x, int64_t channels) {
  std::string label = "vae residual " + x.dim(-1).text() + " to " + std::to_string(channels);
  return s.block(label, {x}, [&](Scope in, std::vector<Value> v) { return std::vector{residual_block(in, v[0], channels)}; })[0];
}

Value middle(const Scope& s, Value x) {
  int64_t channels = x.dim(-1).constant();
  x = residual(s / "block_1", x, channels);
  x = (s / "attn_1").block("vae attention", {x}, [](Scope in, std::vector<Value> v) {
    return std::vector{pixel_attention(in, v[0])};
  })[0];
  return residual(s / "block_2", x, channels);
}

Value encode(const Scope& s, const VaeConfig& c, Value x) {
  x = conv_layer(s / "conv_in", x, c.channels.front(), 3, 1, 1);
  for (size_t level = 0; level < c.channels.size(); ++level) {
    Scope at = s / "down" / int64_t(level);
    for (int64_t i = 0; i < c.residual_blocks; ++i) x = residual(at / "block" / i, x, c.channels[level]);
    if (level + 1 == c.channels.size()) break;
    // Halved with padding at the right and bottom alone: that is how these weights were trained.
    Scope conv = at / "downsample" / "conv";
    Value weight = conv.weight("weight", {x.dim(-1), x.dim(-1), 3, 3});
    x = conv2d(x, weight, {.stride = 2, .bottom = 1, .right = 1}) + conv.weight("bias", {x.dim(-1)});
  }
  x = middle(s / "mid", x);
  x = silu(group_norm_layer(s / "norm_out", x, kEpsilon));
  return conv_layer(s / "conv_out", x, 2 * c.latent_channels, 3, 1, 1);
}

Value decode(const Scope& s, const VaeConfig& c, Value x) {
  x = conv_layer(s / "conv_in", x, c.channels.back(), 3, 1, 1);
  x = middle(s / "mid", x);
  for (int64_t level = int64_t(c.channels.size()) - 1; level >= 0; --level) {
    Scope at = s / "up" / level;
    for (int64_t i = 0; i <= c.residual_blocks; ++i) x = residual(at / "block" / i, x, c.channels[size_t(level)]);
    if (level > 0) x = conv_layer(at / "upsample" / "conv", resize_nearest(x, x.dim(1) * 2, x.dim(2) * 2), x.dim(-1), 3, 1, 1);
  }
  x = silu(group_norm_layer(s / "norm_out", x, kEpsilon));
  return conv_layer(s / "conv_out", x, c.picture_channels, 3, 1, 1);
}

Value enter(const Scope& s, const char* name, Shape shape) {
  Value x = s.graph().input(name, {DType::f32, std::move(shape)});
  return transpose(cast(x, s.compute()), {0, 2, 3, 1});
}

Value leave(Value x) { return cast(transpose(x, {0, 3, 1, 2}), DType::f32); }

}  // namespace

VaeConfig sd_vae_config() { return {.channels = {128, 256, 512, 512}, .quant_conv = true, .post_quant_conv = true}; }

VaeConfig flux_vae_config() { return {.latent_channels = 16, .channels = {128, 256, 512, 512}}; }

VaeConfig detect_vae(const Weights& w) {
  VaeConfig c;
  c.has_encoder = w.has("encoder.conv_in.weight");
  c.has_decoder = w.has("decoder.conv_in.weight");
  if (!c.has_encoder && !c.has_decoder)
    fail(Code::NotFound, "{}: no autoencoder: neither 'decoder.conv_in.weight' nor 'encoder.conv_in.weight' is there", w.path());
  std::string levels = c.has_decoder ? "decoder.up." : "encoder.down.";
  auto block = [&](int64_t level, int64_t i) { return levels + std::to_string(level) + ".block." + std::to_string(i) + "."; };
  for (int64_t level = 0; w.has(block(level, 0) + "conv2.weight"); ++level)
    c.channels.push_back(w.size(block(level, 0) + "conv2.weight", 0));
  if (c.channels.empty()) fail(Code::NotFound, "{}: the autoencoder has no '{}'", w.path(), block(0, 0) + "conv2.weight");
  int64_t blocks = 1;
  while (w.has(block(0, blocks) + "conv2.weight")) ++blocks;
  c.residual_blocks = c.has_decoder ? blocks - 1 : blocks;
  c.latent_channels = c.has_decoder ? w.size("decoder.conv_in.weight", 1) : w.size("encoder.conv_out.weight", 0) / 2;
  c.picture_channels = c.has_decoder ? w.size("decoder.conv_out.weight", 0) : w.size("encoder.conv_in.weight", 1);
  c.quant_conv = w.has("quant_conv.weight");
  c.post_quant_conv = w.has("post_quant_conv.weight");
  return c;
}

void build_vae_encoder(Graph& graph, const VaeConfig& c, Dim batch, Dim height, Dim width, const BuildOptions& options) {
  Scope s(graph, options);
  Value moments = encode(s / "encoder", c, enter(s, "x", {batch, c.picture_channels, height, width}));
  if (c.quant_conv) moments = conv_layer(s / "quant_conv", moments, 2 * c.latent_channels, 1);
  auto halves = split(moments, {c.latent_channels, c.latent_channels}, -1);
  graph.output("mean", leave(halves[0]));
  graph.output("logvar", leave(halves[1]));
}

void build_vae_decoder(Graph& graph, const VaeConfig& c, Dim batch, Dim height, Dim width, const BuildOptions& options) {
  Scope s(graph, options);
  Value z = enter(s, "z", {batch, c.latent_channels, height, width});
  if (c.post_quant_conv) z = conv_layer(s / "post_quant_conv", z, c.latent_channels, 1);
  graph.output("out", leave(decode(s / "decoder", c, z)));
}

}  // namespace sinter
