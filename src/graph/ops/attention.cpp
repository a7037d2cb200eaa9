#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/ops/product.h"
#include "graph/ops/support.h"

namespace sinter {
namespace {

Shape score_shape(Value q, Value k) { return {q.dim(0), q.dim(2), q.dim(1), k.dim(1)}; }

Type infer(const Node& n) {
  if (n.inputs.size() != 3 && n.inputs.size() != 4)
    fail(Code::InvalidArgument, "takes q, k, v and perhaps a bias, not {} inputs", n.inputs.size());
  Value q = n.inputs[0], k = n.inputs[1], v = n.inputs[2];
  expect_float(q, "q");
  expect_same_dtype(n);
  expect_rank(q, 4, "q"), expect_rank(k, 4, "k"), expect_rank(v, 4, "v");
  if (k.shape() != v.shape())
    fail(Code::InvalidArgument, "k and v must have one shape, not {} and {}", text(k.shape()), text(v.shape()));
  for (int axis : {0, 2, 3})
    if (q.dim(axis) != k.dim(axis))
      fail(Code::InvalidArgument, "q and k differ in axis {}, {} and {}", axis, q.dim(axis).text(), k.dim(axis).text());
  if (n.inputs.size() == 4) {
    Shape scores = score_shape(q, k), bias = n.inputs[3].shape();
    size_t skipped = bias.size() <= 4 ? 4 - bias.size() : 0;
    for (size_t i = 0; i < bias.size(); ++i)
      if (bias.size() > 4 || (bias[i] != scores[skipped + i] && bias[i] != Dim(1)))
        fail(Code::InvalidArgument, "the bias {} does not broadcast to [batch, heads, tq, tk] = {}", text(bias), text(scores));
  }
  return q->type;
}

Value causal_bias(Graph& graph, const Dim& queries, const Dim& keys, DType dtype) {
  Value query = iota(graph, {queries, keys}, 0, DType::i32), key = iota(graph, {queries, keys}, 1, DType::i32);
  Value hidden = cast(elementwise("less_than", {query, key}), dtype);
  Value lowest = scalar(graph, -std::numeric_limits<double>::infinity(), dtype);
  return elementwise("where", {hidden, lowest, scalar(graph, 0, dtype)});
}

Value expand(const Node& n) {
  Value q = n.inputs[0], k = n.inputs[1], v = n.inputs[2];
  const auto& attrs = n.attrs.as<AttentionAttrs>();
  Value scores = matmul(transpose(q, {0, 2, 1, 3}), transpose(k, {0, 2, 3, 1})) * attrs.scale;
  if (n.inputs.size() == 4) scores = scores + n.inputs[3];
  if (attrs.causal) scores = scores + causal_bias(*n.graph, q.dim(1), k.dim(1), q.dtype());
  return transpose(matmul(softmax(scores), transpose(v, {0, 2, 1, 3})), {0, 2, 1, 3});
}

struct AttentionSizes {
  int64_t queries, keys, heads, size;
};

/// One head of one image. Keys are held as [size][keys], so that a query meets all keys in one loop.
template <class T>
struct Head {
  const AttentionSizes& s;
  const AttentionAttrs& attrs;
  std::vector<double> keys, values, scores, sums;

  Head(const AttentionSizes& s, const AttentionAttrs& attrs)
      : s(s), attrs(attrs), keys(size_t(s.size * s.keys)), values(keys.size()), scores(size_t(s.keys)), sums(size_t(s.size)) {}

  void load(const T* k, const T* v) {
    for (int64_t j = 0; j < s.keys; ++j)
      for (int64_t d = 0; d < s.size; ++d) {
        keys[size_t(d * s.keys + j)] = double(k[j * s.heads * s.size + d]);
        values[size_t(j * s.size + d)] = double(v[j * s.heads * s.size + d]);
      }
  }

  /// `bias` is a row of the bias with its stride, or null.
  void query(int64_t i, const T* q, const T* bias, int64_t bias_stride, T* out) {
    int64_t seen = attrs.causal ? std::min(s.keys, i + 1) : s.keys;
    std::fill(scores.begin(), scores.end(), 0.0);
    for (int64_t d = 0; d < s.size; ++d) add_scaled(scores.data(), keys.data() + d * s.keys, attrs.scale * double(q[d]), seen);
    double largest = -std::numeric_limits<double>::infinity(), total = 0;
    for (int64_t j = 0; j < seen; ++j) {
      if (bias) scores[size_t(j)] += double(bias[j * bias_stride]);
      largest = std::max(largest, scores[size_t(j)]);
    }
    std::fill(sums.begin(), sums.end(), 0.0);
    for (int64_t j = 0; j < seen; ++j) {
      double weight = std::exp(scores[size_t(j)] - largest);
      total += weight;
      add_scaled(sums.data(), values.data() + j * s.size, weight, s.size);
    }
    for (int64_t d = 0; d < s.size; ++d) out[d] = T(sums[size_t(d)] / total);
  }
};

Tensor reference(const Node& n, std::span<const Tensor> inputs, const Bindings& bindings) {
  Tensor result;
  with_real(n.type.dtype, [&]<class T>(T) {
    constexpr DType real = real_dtype<T>;
    Tensor q = inputs[0].to(real), k = inputs[1].to(real), v = inputs[2].to(real), out(real, q.shape());
    AttentionSizes s{q.dim(1), k.dim(1), q.dim(2), q.dim(3)};
    Tensor bias;
    std::vector<int64_t> bias_strides(4);
    if (inputs.size() == 4) {
      bias = inputs[3].to(real);
      auto scores = sizes(score_shape(n.inputs[0], n.inputs[1]), bindings);
      auto strides = strides_of(bias.shape());
      size_t skipped = 4 - strides.size();
      for (size_t i = 0; i < strides.size(); ++i)
        if (bias.shape()[i] == scores[skipped + i]) bias_strides[skipped + i] = strides[i];
    }
    constexpr int64_t kQueries = 64;
    int64_t pieces = (s.queries + kQueries - 1) / kQueries;
    in_parallel(q.dim(0) * s.heads * pieces, 1, [&](int64_t begin, int64_t end) {
      Head<T> head(s, n.attrs.as<AttentionAttrs>());
      for (int64_t task = begin, loaded = -1; task < end; ++task) {
        int64_t image = task / pieces / s.heads, h = task / pieces % s.heads, first = task % pieces * kQueries;
        int64_t key_at = (image * s.keys * s.heads + h) * s.size, query_at = (image * s.queries * s.heads + h) * s.size;
        if (loaded != task / pieces) head.load(reals<T>(k) + key_at, reals<T>(v) + key_at);
        loaded = task / pieces;
        for (int64_t i = first; i < std::min(s.queries, first + kQueries); ++i) {
          const T* row =
              bias.empty() ? nullptr : reals<T>(bias) + image * bias_strides[0] + h * bias_strides[1] + i * bias_strides[2];
          int64_t at = query_at + i * s.heads * s.size;
          head.query(i, reals<T>(q) + at, row, bias_strides[3], reals<T>(out) + at);
        }
      }
    });
    result = out.to(n.type.dtype);
  });
  return result;
}

}  // namespace

const OpDef attention_op = {
    .name = "attention",
    .summary = "softmax(scale * q . k + bias) . v for each head.",
    .infer = infer,
    .expand = expand,
    .reference = reference,
    .samples =
        [] {
          return std::vector<Sample>{
              {{floats({2, 3, 2, 4}), floats({2, 5, 2, 4}), floats({2, 5, 2, 4})},
               [](Inputs v) { return attention(v[0], v[1], v[2], {0.5}); }},
              {{floats({1, 4, 1, 3}), floats({1, 4, 1, 3}), floats({1, 4, 1, 3})},
               [](Inputs v) {
                 return attention(v[0], v[1], v[2], {0.7, true});
               }},
              {{floats({2, 3, 2, 4}), floats({2, 5, 2, 4}), floats({2, 5, 2, 4}), floats({2, 1, 1, 5})},
               [](Inputs v) { return attention(v[0], v[1], v[2], {0.5}, v[3]); }},
              {{floats({1, 3, 2, 9}), floats({1, 3, 2, 9}), floats({1, 3, 2, 9}), floats({2, 3, 3})}, [](Inputs v) {
                 return attention(v[0], v[1], v[2], {1, true}, v[3]);
               }}};
        },
    .refusals =
        [] {
          return std::vector<Refusal>{{{floats({2, 3, 2, 4}), floats({2, 5, 2, 4}), floats({2, 6, 2, 4})},
                                       [](Inputs v) { return attention(v[0], v[1], v[2], {0.5}); },
                                       "k and v must have one shape"},
                                      {{floats({2, 3, 2, 4}), floats({2, 5, 1, 4}), floats({2, 5, 1, 4})},
                                       [](Inputs v) { return attention(v[0], v[1], v[2], {0.5}); },
                                       "q and k differ in axis 2, 2 and 1"},
                                      {{floats({2, 3, 2, 4}), floats({2, 5, 2, 4}), floats({2, 5, 2, 4}), floats({3, 4})},
                                       [](Inputs v) { return attention(v[0], v[1], v[2], {0.5}, v[3]); },
                                       "does not broadcast to"}};
        },
    .read_attrs = read_attrs<AttentionAttrs>,
};

Value attention(Value q, Value k, Value v, AttentionAttrs attrs, Value bias) {
  std::vector<Value> inputs{q, k, v};
  if (bias) inputs.push_back(bias);
  return q->graph->add(attention_op, std::move(inputs), Attrs::of(attrs));
}

}  // namespace sinter
