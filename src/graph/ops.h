#pragma once
#include <initializer_list>
#include <span>

#include "graph/graph.h"

namespace sinter {

/// Every op, sorted by name: ops.list and one for each formula.
std::span<const OpDef* const> all_ops();
const OpDef* find_op(std::string_view name);  ///< null if there is none
bool is_elementwise(const OpDef& op);
/// The formula behind an elementwise op.
const struct Formula& formula_of(const OpDef& op);

// Builder functions. Axes may be negative: -1 is the last. Elementwise functions broadcast their arguments to one shape, aligned
// at the last axis, as NumPy does; all values of one call have one dtype.

Value elementwise(std::string_view formula, std::vector<Value> arguments);
Value operator+(Value a, Value b);
Value operator-(Value a, Value b);
Value operator*(Value a, Value b);
Value operator/(Value a, Value b);
Value operator+(Value a, double b);
Value operator*(Value a, double b);
Value operator-(Value a, double b);
Value operator-(Value a);
Value silu(Value x);
Value gelu(Value x);        ///< x * Phi(x), exact
Value gelu_tanh(Value x);   ///< the tanh approximation
Value quick_gelu(Value x);  ///< x * sigmoid(1.702 x)
Value square(Value x);
Value rsqrt(Value x);
Value exp(Value x);
Value sin(Value x);
Value cos(Value x);

/// One number, as a scalar of `like`'s dtype.
Value scalar(Graph& graph, double value, DType dtype);
Value constant(Graph& graph, const Tensor& value);
Value cast(Value x, DType dtype);
Value reshape(Value x, Shape shape);
/// Axis i of the result is axis order[i] of x.
Value transpose(Value x, std::vector<int64_t> order);
/// Repeats axes of size 1, and new leading axes, up to `shape`.
Value broadcast(Value x, Shape shape);
/// Elements [begin, begin + length) of one axis.
Value slice(Value x, int axis, Dim begin, Dim length);
std::vector<Value> split(Value x, const std::vector<Dim>& lengths, int axis);
Value concat(std::vector<Value> parts, int axis);
/// Elements 2n and 2n + 1 of the last axis, which has an even size, change places.
Value swap_pairs(Value x);
/// 0, 1, 2, ... along `axis`, the same everywhere else.
Value iota(Graph& graph, Shape shape, int axis, DType dtype);
/// Over the given axes, which stay with size 1.
Value reduce_sum(Value x, std::vector<int64_t> axes);
Value reduce_max(Value x, std::vector<int64_t> axes);
Value mean(Value x, std::vector<int64_t> axes);

/// a[..., m, k] . b[..., k, n]; leading axes equal.
Value matmul(Value a, Value b);
/// x[..., k] . w[n, k]^T: the layout in which checkpoints keep linear layers.
Value linear(Value x, Value w);
/// x[batch, height, width, channels], w[out, channels, kernel height, kernel width]; zero padding, given for each side.
struct ConvAttrs {
  int64_t stride = 1;
  int64_t top = 0, left = 0, bottom = 0, right = 0;
  void fields(auto& field) {
    field("stride", stride), field("top", top), field("left", left), field("bottom", bottom), field("right", right);
  }
};
Value conv2d(Value x, Value w, ConvAttrs attrs);
/// q[batch, tq, heads, size], k and v[batch, tk, heads, size]; softmax(scale * q . k + bias) . v as [batch, tq, heads, size].
/// `bias`, if any, broadcasts to [batch, heads, tq, tk]. Causal: a query sees keys up to its own position.
struct AttentionAttrs {
  double scale = 0;
  bool causal = false;
  void fields(auto& field) { field("scale", scale), field("causal", causal); }
};
Value attention(Value q, Value k, Value v, AttentionAttrs attrs, Value bias = {});
/// Rows of table[rows, width] at `indices` (i64): indices' shape with width appended. An index outside is an error when run.
Value embedding(Value table, Value indices);
/// x[batch, height, width, channels] at another size: each output takes the input at floor(index * in / out).
Value resize_nearest(Value x, Dim height, Dim width);
Value softmax(Value x);  ///< over the last axis
/// Over the last axis, without scale and shift.
Value layer_norm(Value x, double epsilon);
Value rms_norm(Value x, double epsilon);
/// x[batch, ..., channels]: normalised over all but batch within each of `groups` slices of channels, then scale and shift by
/// channel.
Value group_norm(Value x, Value scale, Value shift, int64_t groups, double epsilon);
/// t[batch] -> [batch, size]: cosines, then sines, of t * max_period^(-i / (size/2)) (Vaswani et al. 2017, as DDPM uses it).
Value timestep_embedding(Value t, int64_t size, double max_period = 10000);

struct CallAttrs {
  std::shared_ptr<const Function> function;
  std::string prefix;
  void fields(auto& field) { field("function", function), field("prefix", prefix); }
};
/// The results of a function for these arguments; its weights are named with `prefix` in front.
std::vector<Value> call(const std::shared_ptr<const Function>& function, std::vector<Value> arguments, const std::string& prefix);

// Records of ops that passes and backends treat by name.
extern const OpDef input_op, weight_op, constant_op, call_op, result_op, cast_op, reshape_op, transpose_op, broadcast_op,
    slice_op, concat_op, swap_pairs_op, iota_op, reduce_sum_op, reduce_max_op, matmul_op, linear_op, conv2d_op, attention_op,
    embedding_op, resize_nearest_op, softmax_op, layer_norm_op, rms_norm_op, group_norm_op, timestep_embedding_op;

struct NameAttrs {
  std::string name;
  Type type() const { return {dtype, shape}; }
  DType dtype = DType::f32;
  Shape shape;
  void fields(auto& field) { field("name", name), field("dtype", dtype), field("shape", shape); }
};
struct ConstantAttrs {
  Tensor value;
  void fields(auto& field) { field("value", value); }
};
struct IndexAttrs {
  int64_t index = 0;
  void fields(auto& field) { field("index", index); }
};
struct CastAttrs {
  DType dtype = DType::f32;
  void fields(auto& field) { field("dtype", dtype); }
};
struct ShapeAttrs {
  Shape shape;
  void fields(auto& field) { field("shape", shape); }
};
struct OrderAttrs {
  std::vector<int64_t> order;
  void fields(auto& field) { field("order", order); }
};
struct SliceAttrs {
  int64_t axis = 0;
  Dim begin, length;
  void fields(auto& field) { field("axis", axis), field("begin", begin), field("length", length); }
};
struct AxisAttrs {
  int64_t axis = 0;
  void fields(auto& field) { field("axis", axis); }
};
struct AxesAttrs {
  std::vector<int64_t> axes;
  void fields(auto& field) { field("axes", axes); }
};
struct IotaAttrs {
  DType dtype = DType::f32;
  Shape shape;
  int64_t axis = 0;
  void fields(auto& field) { field("dtype", dtype), field("shape", shape), field("axis", axis); }
};
struct NormAttrs {
  double epsilon = 1e-5;
  void fields(auto& field) { field("epsilon", epsilon); }
};
struct GroupNormAttrs {
  int64_t groups = 32;
  double epsilon = 1e-5;
  void fields(auto& field) { field("groups", groups), field("epsilon", epsilon); }
};
struct ResizeAttrs {
  Dim height, width;
  void fields(auto& field) { field("height", height), field("width", width); }
};
struct TimestepAttrs {
  int64_t size = 0;
  double max_period = 10000;
  void fields(auto& field) { field("size", size), field("max_period", max_period); }
};

}  // namespace sinter
