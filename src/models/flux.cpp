#include "models/flux.h"

#include <cmath>

#include "models/text_layers.h"

namespace sinter {

FluxConfig detect_flux(const Weights& weights) {
  FluxConfig c;
  c.width = weights.size("img_in.weight", 0);
  c.in_channels = weights.size("img_in.weight", 1) / 4;
  c.out_channels = weights.size("final_layer.linear.weight", 0) / 4;
  c.head_size = weights.size("double_blocks.0.img_attn.norm.query_norm.scale", 0);
  c.mlp = weights.size("double_blocks.0.img_mlp.0.weight", 0);
  c.context_width = weights.size("txt_in.weight", 1);
  c.vector_width = weights.size("vector_in.in_layer.weight", 1);
  c.double_blocks = count_blocks(weights, "double_blocks.");
  c.single_blocks = count_blocks(weights, "single_blocks.");
  c.guidance = weights.has("guidance_in.in_layer.weight");
  c.axes = {c.head_size / 8, c.head_size * 7 / 16, c.head_size * 7 / 16};
  bool even = c.head_size > 0 && c.axes[0] % 2 == 0 && c.axes[1] % 2 == 0 && c.axes[2] % 2 == 0;
  if (!even || c.width % c.head_size != 0 || c.axes[0] + c.axes[1] + c.axes[2] != c.head_size)
    fail(Code::Unsupported, "{}: FLUX of width {} cannot have heads of {} with axes of {}, {} and {}", weights.path(), c.width,
         c.head_size, c.axes[0], c.axes[1], c.axes[2]);
  return c;
}

namespace {

constexpr double kEpsilon = 1e-6;
constexpr int kTokens = 1;

/// axis -> [positions, axis/2]: position * theta^(-2i / axis).
Value angles(const FluxConfig& c, int64_t axis, Value positions) {
  std::vector<float> frequencies;
  for (int64_t i = 0; i < axis / 2; ++i) frequencies.push_back(float(1.0 / std::pow(c.theta, double(2 * i) / double(axis))));
  Value row = constant(*positions->graph, Tensor::of({1, axis / 2}, frequencies));
  return reshape(positions, {positions.dim(0), 1}) * row;
}

/// Turns the pairs (2i, 2i+1) of each head; in f32 whatever the compute type, as the reference does.
Value rotate(Value x, const Rope& rope) {
  Value wide = cast(x, DType::f32);
  return cast(wide * rope.cos + swap_pairs(wide) * rope.sin, x.dtype());
}

/// What one of a block's halves is shifted and scaled by before, and gated with after.
struct Modulation {
  Value shift, scale, gate;
};
template <size_t count>
std::array<Modulation, count> modulation(Scope s, const FluxConfig& c, Value condition) {
  Value all = linear_layer(s, silu(condition), int64_t(3 * count) * c.width);
  auto parts = split(reshape(all, {all.dim(0), 1, all.dim(1)}), std::vector<Dim>(3 * count, c.width), 2);
  std::array<Modulation, count> out;
  for (size_t i = 0; i < count; ++i) out[i] = {parts[3 * i], parts[3 * i + 1], parts[3 * i + 2]};
  return out;
}
Value modulate(Value x, const Modulation& m) { return (m.scale + 1.0) * layer_norm(x, kEpsilon) + m.shift; }

struct Heads {
  Value q, k, v;
};
Value head_norm(Scope s, Value x) {
  Value scale = s.weight("scale", {x.dim(-1)});
  return rms_norm(x, kEpsilon) * scale;
}
Heads norm_heads(Scope s, const FluxConfig& c, Value qkv) {
  auto parts = split(qkv, std::vector<Dim>(3, c.width), 2);
  Value q = head_norm(s / "query_norm", split_heads(parts[0], c.heads()));
  Value k = head_norm(s / "key_norm", split_heads(parts[1], c.heads()));
  return {q, k, split_heads(parts[2], c.heads())};
}
Heads project_heads(Scope s, const FluxConfig& c, Value x) {
  return norm_heads(s / "norm", c, linear_layer(s / "qkv", x, 3 * c.width));
}
Value attend(const FluxConfig& c, Value q, Value k, Value v) {
  return merge_heads(attention(q, k, v, {.scale = 1.0 / std::sqrt(double(c.head_size))}));
}

Value feed_forward(Scope s, const FluxConfig& c, Value x) {
  return linear_layer(s / 2, gelu_tanh(linear_layer(s / 0, x, c.mlp)), c.width);
}

struct Streams {
  Value image, text;
};

Rope part_of(const Rope& rope, Dim begin, Dim length) {
  return {slice(rope.cos, kTokens, begin, length), slice(rope.sin, kTokens, begin, length)};
}

Streams double_block(Scope s, const FluxConfig& c, Streams x, Value condition, const Rope& rope) {
  auto [image_attn, image_mlp] = modulation<2>(s / "img_mod" / "lin", c, condition);
  auto [text_attn, text_mlp] = modulation<2>(s / "txt_mod" / "lin", c, condition);

  Heads image = project_heads(s / "img_attn", c, modulate(x.image, image_attn));
  Heads text = project_heads(s / "txt_attn", c, modulate(x.text, text_attn));

  // Text first: the rope table and the released checkpoints agree on this order.
  Rope text_rope = part_of(rope, 0, x.text.dim(kTokens)), image_rope = part_of(rope, x.text.dim(kTokens), x.image.dim(kTokens));
  Value joint =
      attend(c, concat({rotate(text.q, text_rope), rotate(image.q, image_rope)}, kTokens),
             concat({rotate(text.k, text_rope), rotate(image.k, image_rope)}, kTokens), concat({text.v, image.v}, kTokens));
  auto parts = split(joint, {x.text.dim(kTokens), x.image.dim(kTokens)}, kTokens);

  x.image = x.image + image_attn.gate * linear_layer(s / "img_attn" / "proj", parts[1], c.width);
  x.image = x.image + image_mlp.gate * feed_forward(s / "img_mlp", c, modulate(x.image, image_mlp));
  x.text = x.text + text_attn.gate * linear_layer(s / "txt_attn" / "proj", parts[0], c.width);
  x.text = x.text + text_mlp.gate * feed_forward(s / "txt_mlp", c, modulate(x.text, text_mlp));
  return x;
}

Value single_block(Scope s, const FluxConfig& c, Value x, Value condition, const Rope& rope) {
  auto [both] = modulation<1>(s / "modulation" / "lin", c, condition);
  auto parts = split(linear_layer(s / "linear1", modulate(x, both), 3 * c.width + c.mlp), {3 * c.width, c.mlp}, 2);
  Heads heads = norm_heads(s / "norm", c, parts[0]);
  Value attended = attend(c, rotate(heads.q, rope), rotate(heads.k, rope), heads.v);
  return x + both.gate * linear_layer(s / "linear2", concat({attended, gelu_tanh(parts[1])}, 2), c.width);
}

Value embedder(Scope s, const FluxConfig& c, Value x) {
  return linear_layer(s / "out_layer", silu(linear_layer(s / "in_layer", x, c.width)), c.width);
}
/// t is 0 to 1 for time and the plain guidance for guidance; both are multiplied by 1000 before they become waves.
Value waves(Value t, DType compute) { return cast(timestep_embedding(t * 1000.0, 256), compute); }

/// A latent in squares of 2 x 2.
struct Patches {
  Dim height, width, rows, columns;
  explicit Patches(Value x) : height(x.dim(2)), width(x.dim(3)), rows(ceil_div(height, 2)), columns(ceil_div(width, 2)) {}
  Dim count() const { return rows * columns; }
};

/// An axis made even by wrapping around.
Value wrap(Value x, int axis, Dim padded) { return concat({x, slice(x, axis, 0, padded - x.dim(axis))}, axis); }

Value patchify(Value x, const Patches& p) {
  x = wrap(wrap(x, 2, 2 * p.rows), 3, 2 * p.columns);
  Dim batch = x.dim(0), channels = x.dim(1);
  x = transpose(reshape(x, {batch, channels, p.rows, 2, p.columns, 2}), {0, 2, 4, 1, 3, 5});
  return reshape(x, {batch, p.count(), channels * 4});
}

Value unpatchify(Value x, const Patches& p, int64_t channels) {
  x = transpose(reshape(x, {x.dim(0), p.rows, p.columns, channels, 2, 2}), {0, 3, 1, 4, 2, 5});
  x = reshape(x, {x.dim(0), channels, 2 * p.rows, 2 * p.columns});
  return slice(slice(x, 2, 0, p.height), 3, 0, p.width);
}

/// Text stands at (0, 0, 0), a patch at (0, row, column).
Rope image_rope(Graph& graph, const FluxConfig& c, const Patches& p, Dim text) {
  Shape grid{p.rows, p.columns};
  Value zeros = broadcast(scalar(graph, 0, DType::f32), {text + p.count()});
  auto positions = [&](int axis) {
    Value image = reshape(iota(graph, grid, axis, DType::f32), {p.count()});
    return concat({broadcast(scalar(graph, 0, DType::f32), {text}), image}, 0);
  };
  return rope_table(c, {zeros, positions(0), positions(1)});
}

Value final_layer(Scope s, const FluxConfig& c, Value x, Value condition) {
  Value both = linear_layer(s / "adaLN_modulation" / 1, silu(condition), 2 * c.width);
  auto parts = split(reshape(both, {both.dim(0), 1, both.dim(1)}), {c.width, c.width}, 2);
  return linear_layer(s / "linear", modulate(x, {parts[0], parts[1], {}}), 4 * c.out_channels);
}

}  // namespace

Rope rope_table(const FluxConfig& c, std::array<Value, 3> positions) {
  Value all =
      concat({angles(c, c.axes[0], positions[0]), angles(c, c.axes[1], positions[1]), angles(c, c.axes[2], positions[2])}, 1);
  Shape pairs{all.dim(0), all.dim(1), 1}, heads{1, all.dim(0), 1, c.head_size};
  all = reshape(all, pairs);
  Value cosine = cos(all), sine = sin(all);
  return {reshape(concat({cosine, cosine}, 2), heads), reshape(concat({-sine, sine}, 2), heads)};
}

void build_flux(Graph& graph, const FluxConfig& c, const FluxSizes& sizes, const BuildOptions& options) {
  Scope s(graph, options);
  const DType type = s.compute();
  auto input = [&](const char* name, Shape shape) { return graph.input(name, {DType::f32, std::move(shape)}); };
  Value x = cast(input("x", {sizes.batch, c.in_channels, sizes.height, sizes.width}), type);
  Value timestep = input("timestep", {sizes.batch});
  Value context = cast(input("context", {sizes.batch, sizes.text, c.context_width}), type);
  Value y = cast(input("y", {sizes.batch, c.vector_width}), type);

  Value condition = embedder(s / "time_in", c, waves(timestep, type));
  if (c.guidance) condition = condition + embedder(s / "guidance_in", c, waves(input("guidance", {sizes.batch}), type));
  condition = condition + embedder(s / "vector_in", c, y);

  Patches patches(x);
  Rope rope = image_rope(graph, c, patches, sizes.text);
  Streams streams{linear_layer(s / "img_in", patchify(x, patches), c.width), linear_layer(s / "txt_in", context, c.width)};
  for (int64_t i = 0; i < c.double_blocks; ++i) {
    auto out = (s / "double_blocks" / i)
                   .block("double block", {streams.image, streams.text, condition, rope.cos, rope.sin},
                          [&](Scope b, std::vector<Value> v) {
                            Streams r = double_block(b, c, {v[0], v[1]}, v[2], {v[3], v[4]});
                            return std::vector<Value>{r.image, r.text};
                          });
    streams = {out[0], out[1]};
  }

  Value joint = concat({streams.text, streams.image}, kTokens);
  for (int64_t i = 0; i < c.single_blocks; ++i)
    joint = (s / "single_blocks" / i)
                .block("single block", {joint, condition, rope.cos, rope.sin}, [&](Scope b, std::vector<Value> v) {
                  return std::vector<Value>{single_block(b, c, v[0], v[1], {v[2], v[3]})};
                })[0];

  Value image = slice(joint, kTokens, sizes.text, patches.count());
  Value out = unpatchify(final_layer(s / "final_layer", c, image, condition), patches, c.out_channels);
  graph.output("out", cast(out, DType::f32));
}

}  // namespace sinter
