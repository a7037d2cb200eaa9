#pragma once
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "graph/ops.h"
#include "models/scope.h"

namespace sinter {

/// Makes random networks of everything that models do, on pictures, tokens and vectors of unknown sizes, in nested blocks. Values
/// stay moderate, so that outputs can be compared. Sizes are those of `bindings()`, which a network is small enough for.
class RandomNetwork {
 public:
  RandomNetwork(uint32_t seed, BuildOptions options = {}) : random_(seed), options_(std::move(options)) {}

  /// Fills an empty graph with about `steps` layers; one to three outputs.
  void fill(Graph& graph, int steps) {
    Scope s(graph, options_);
    DType dtype = options_.compute;
    int64_t channels = pick(0, 1) ? 8 * pick(1, 5) : pick(1, 37);
    Dim b = size("batch", 1, 3), h = size("height", 1, 9), w = size("width", 1, 9), t = size("tokens", 1, 40);
    std::vector<Value> values{graph.input("picture", {dtype, {b, h, w, channels}}),
                              graph.input("tokens", {dtype, {b, t, channels}}), graph.input("vector", {dtype, {b, pick(1, 20)}}),
                              graph.input("numbers", {DType::i64, {b, t}})};
    add_layers(s, values, steps, 0);
    graph.output("last", values.back());
    for (int i = pick(0, 2); i > 0; --i) graph.output("other" + std::to_string(i), any(values));
  }

  const Bindings& bindings() const { return bindings_; }
  int64_t count(const Shape& shape) const { return element_count(shape).value(bindings_); }
  Tensor draw(const Type& type) {
    std::vector<int64_t> sizes;
    for (const Dim& dim : type.shape) sizes.push_back(dim.value(bindings_));
    Tensor values(DType::f32, sizes);
    bool integers = type.dtype == DType::i64;
    for (float& x : values.f32()) x = integers ? float(pick(0, kRows - 1)) : float(random_()) / 2147483648.f - 1;
    return values.to(type.dtype);
  }

 private:
  static constexpr int kRows = 7;          // of embedding tables
  static constexpr int64_t kMost = 20000;  // elements of a value

  int pick(int low, int high) { return low + int(random_() % uint32_t(high - low + 1)); }
  Dim size(const std::string& name, int low, int high) {
    Dim dim = Dim::symbol("random_" + name, {1, 4096, 1});
    std::vector<SymbolId> symbols;
    dim.collect_symbols(symbols);
    bindings_[symbols[0]] = pick(low, high);
    return dim;
  }
  Value any(const std::vector<Value>& values) {
    for (;;)
      if (Value v = values[size_t(pick(pick(0, int(values.size()) - 1), int(values.size()) - 1))]; is_float(v.dtype())) return v;
  }
  Value bounded(Value x) { return elementwise("tangent_hyperbolic", {x}); }
  bool fits(const Shape& shape) { return count(shape) <= kMost; }

  void add_layers(Scope s, std::vector<Value>& values, int steps, int depth) {
    for (int i = 0; i < steps; ++i) {
      Value next = layer(s / i, values, depth);
      if (next && fits(next.shape())) values.push_back(next);
    }
  }

  /// Nothing where the value picked does not suit the layer picked.
  Value layer(Scope s, std::vector<Value>& values, int depth) {
    Value x = any(values);
    bool picture = x.rank() == 4 && x.dim(3).is_constant(), rows = x.rank() >= 2 && x.dim(-1).is_constant();
    switch (pick(0, 11)) {
      case 0:
      case 1:
        return pointwise(x, values);
      case 2:
      case 3:
        return movement(x);
      case 4:
        return reduction(x);
      case 5:
        return normalisation(s, x);
      case 6:
        return rows ? product(s, x) : Value();
      case 7:
      case 8:
        return picture ? convolution(s, x) : Value();
      case 9:
        return x.rank() == 3 && rows ? attend(s, x, values) : Value();
      case 10:
        return joined(x, values);
      default:
        return depth < 2 ? block(s, x, values, depth) : pick(0, 1) ? looked_up(s, values) : ramp(x);
    }
  }

  Value pointwise(Value x, const std::vector<Value>& values) {
    Value y = any(values);
    switch (pick(0, 6)) {
      case 0:
        return silu(x);
      case 1:
        return elementwise("sine", {x * 1.5});
      case 2:
        return bounded(x * x + 0.25);
      case 3:
        return gelu(x) - 0.125;
      case 4:
        return x.shape() == y.shape() ? bounded(x * y) : -x;
      case 5:
        return x.shape() == y.shape() ? bounded(x - y) : elementwise("cosine", {x});
      default:  // of something computed, two ways of rounding may end a whole step apart
        if (x->op != &input_op && x.dtype() == DType::f32) return {};
        return cast(cast(x, pick(0, 1) ? DType::f16 : DType::bf16), x.dtype());
    }
  }

  Value movement(Value x) {
    int axis = pick(0, x.rank() - 1);
    Shape shape = x.shape();
    switch (pick(0, 6)) {
      case 0:
      case 1: {
        std::vector<int64_t> order;
        for (int i = 0; i < x.rank(); ++i) order.push_back(i);
        std::shuffle(order.begin(), order.end(), random_);
        return transpose(x, order);
      }
      case 2: {
        if (axis + 1 == x.rank()) return reshape(x, {1, element_count(shape)});
        shape[size_t(axis)] = shape[size_t(axis)] * shape[size_t(axis) + 1];
        shape.erase(shape.begin() + axis + 1);
        return reshape(x, shape);
      }
      case 3: {
        int64_t length = x.dim(axis).value(bindings_);
        if (length < 2) return {};
        if (pick(0, 1) && !x.dim(axis).is_constant()) return slice(x, axis, x.dim(axis) - 1, 1);
        int begin = pick(0, int(length) - 1);
        return x.dim(axis).is_constant() ? slice(x, axis, begin, pick(1, int(length) - begin))
                                         : slice(x, axis, 1, x.dim(axis) - 1);
      }
      case 4:
        if (x.rank() > 4) return {};
        shape.insert(shape.begin(), pick(1, 3));
        return broadcast(x, shape);
      case 5:
        if (x.rank() != 4) return {};
        return pick(0, 1) ? resize_nearest(x, x.dim(1) * 2, x.dim(2) * 2)
                          : resize_nearest(x, x.dim(1) + 1, ceil_div(x.dim(2), 2));
      default:
        shape.insert(shape.begin() + axis, 1);
        return x.rank() > 4 ? Value() : reshape(x, shape);
    }
  }

  Value reduction(Value x) {
    std::vector<int64_t> axes;
    for (int i = 0; i < x.rank(); ++i)
      if (pick(0, 1)) axes.push_back(i);
    if (axes.empty()) axes.push_back(-1);
    Value reduced = pick(0, 2) ? mean(x, axes) : reduce_max(x, axes);
    return pick(0, 1) ? reduced : pick(0, 1) ? x - reduced : bounded(reduced * x);
  }

  Value normalisation(Scope s, Value x) {
    switch (pick(0, 3)) {
      case 0:
        return softmax(x);
      case 1:
        return layer_norm(x, 0.5);
      case 2:
        return x.rank() >= 2 && x.dim(-1).is_constant() ? rms_norm(x, 0.5) * s.weight("scale", {x.dim(-1)}) : rms_norm(x, 0.5);
      default: {
        if (x.rank() < 3 || !x.dim(-1).is_constant()) return {};
        int64_t channels = x.dim(-1).constant(), groups = 1;
        for (int64_t g : {2, 3, 4, 8})
          if (channels % g == 0 && pick(0, 1)) groups = g;
        Value scale = s.weight("weight", {channels}), shift = s.weight("bias", {channels});
        Value normal = group_norm(x, scale, shift, groups, 0.5);
        return pick(0, 1) ? silu(normal) : normal;
      }
    }
  }

  Value product(Scope s, Value x) {
    int64_t n = pick(0, 2) ? pick(1, 40) : 8 * pick(1, 6);
    switch (pick(0, 4)) {
      case 0:
        return bounded(linear_layer(s, x, n));
      case 1: {
        auto halves = split(linear_layer(s, x, 2 * n), {n, n}, -1);
        return bounded(halves[0] * gelu(halves[1]));
      }
      case 2: {
        Value same = linear_layer(s, silu(x), x.dim(-1), pick(0, 1));
        return bounded(x + same);
      }
      case 3: {
        std::vector<int64_t> order;
        for (int i = 0; i < x.rank(); ++i) order.push_back(i);
        std::swap(order[order.size() - 1], order[order.size() - 2]);
        return bounded(matmul(x, transpose(x, order)) * 0.25);
      }
      default:
        return linear_layer(s, bounded(x), n, false) * 0.25;
    }
  }

  Value convolution(Scope s, Value x) {
    int64_t kernel = pick(0, 2) ? 3 : 1, out = pick(0, 1) ? x.dim(3).constant() : pick(1, 40);
    Value in = pick(0, 1) ? x : silu(x);
    if (pick(0, 3) == 0) in = resize_nearest(in, x.dim(1) * 2, x.dim(2) * 2);
    if (!fits(in.shape())) return {};
    Value y = bounded(conv_layer(s, in, out, kernel, pick(0, 3) ? 1 : 2, kernel / 2));
    return y.shape() == x.shape() ? x + y : y;
  }

  Value attend(Scope s, Value x, const std::vector<Value>& values) {
    int64_t heads = pick(1, 3), width = pick(1, 20);
    Value other = x;
    for (Value v : values)
      if (v.rank() == 3 && is_float(v.dtype()) && v.dim(0) == x.dim(0) && v.dim(2).is_constant() && pick(0, 1)) other = v;
    auto head = [&](const char* name, Value v) {
      return reshape(linear_layer(s / name, bounded(v), heads * width, false), {v.dim(0), v.dim(1), heads, width});
    };
    Value q = head("q", x), k = head("k", other), v = head("v", other);
    bool causal = other == x && pick(0, 1);
    Value bias;
    if (pick(0, 2) == 0) bias = reshape(mean(k, {2, 3}), {x.dim(0), 1, 1, other.dim(1)});
    if (bias && bias.dtype() != DType::f32) bias = {};
    Value y = attention(q, k, v, {0.1, causal}, bias);
    return linear_layer(s / "out", reshape(y, {x.dim(0), x.dim(1), heads * width}), x.dim(2));
  }

  Value joined(Value x, const std::vector<Value>& values) {
    int axis = pick(0, x.rank() - 1);
    std::vector<Value> parts{x};
    for (Value v : values) {
      bool suits = v.rank() == x.rank() && v.dtype() == x.dtype();
      for (int i = 0; suits && i < x.rank(); ++i) suits = i == axis || v.dim(i) == x.dim(i);
      if (suits && pick(0, 1) && parts.size() < 4) parts.push_back(v);
    }
    if (parts.size() == 1) parts.push_back(elementwise("cosine", {x}));
    return concat(parts, axis);
  }

  /// The same block twice, with weights of its own each time.
  Value block(Scope s, Value x, std::vector<Value>& values, int depth) {
    std::vector<Value> arguments{x};
    if (pick(0, 1)) arguments.push_back(any(values));
    int times = pick(1, 2);
    std::mt19937 before = random_;
    Value last;
    for (int64_t i = 0; i < times; ++i) {
      random_ = before;
      auto results = (s / i).block("block", arguments, [&](Scope inner, std::vector<Value> parameters) {
        add_layers(inner, parameters, 4, depth + 1);
        std::vector<Value> out{parameters.back(), any(parameters)};
        return out;
      });
      last = results[0];
      for (Value r : results)
        if (fits(r.shape())) values.push_back(r);
      if (last->type == arguments[0]->type) arguments[0] = last;
    }
    return last;
  }

  Value looked_up(Scope s, const std::vector<Value>& values) {
    for (Value v : values)
      if (v.dtype() == DType::i64) return embedding(s.weight("table", {kRows, pick(1, 12)}), v);
    return {};
  }

  Value ramp(Value x) {
    Value numbers = iota(*x->graph, x.shape(), pick(0, x.rank() - 1), DType::f32);
    return x + cast(elementwise("cosine", {numbers}), x.dtype());
  }

  std::mt19937 random_;
  BuildOptions options_;
  Bindings bindings_;
};

}  // namespace sinter
