#include "compiler/lowering/fp8_attention.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "base/error.h"
#include "compiler/lowering/lowered_ops.h"
#include "compiler/view.h"

namespace sinter {

const OpDef fp8_attention_op = {
    .name = "fp8_attention",
    .summary = "Attention of f8e4m3: q and k in units of `unit`, the result in those of v.",
    .infer = [](const Node& n) -> Type {
      return {DType::f8e4m3, n.inputs[0].shape()};
    },
};

namespace {

constexpr double kLargestE4m3 = 448, kAboveZero = 1e-30;

Value below_casts(Value v) {
  while (v->op == &cast_op) v = v->inputs[0];
  return v;
}

/// The weight of one number a column that a value repeats for all rows; empty for other values.
Value column_weight(Value v) {
  v = below_casts(v);
  if (v->op == &broadcast_op) v = below_casts(v->inputs[0]);
  return v->op == &weight_op && v.rank() == 1 ? v : Value();
}

/// x, where a sum is x * cosines + swap_pairs(x) * sines.
Value turned(const Node& sum) {
  for (size_t i : {0, 1}) {
    const Node &swapped = *sum.inputs[i], &straight = *sum.inputs[1 - i];
    if (swapped.op->name != "multiply" || straight.op->name != "multiply") continue;
    for (Value factor : swapped.inputs)
      if (factor->op == &swap_pairs_op &&
          std::find(straight.inputs.begin(), straight.inputs.end(), factor->inputs[0]) != straight.inputs.end())
        return factor->inputs[0];
  }
  return {};
}

/// Whether each row of v is one that was divided by its root mean square, times a weight, maybe with its pairs turned. The
/// weights are appended.
bool is_normalised(Value v, std::vector<Value>& weights) {
  const Node& n = *v;
  if (n.op == &cast_op) return is_normalised(n.inputs[0], weights);
  if (n.op == &concat_op && n.attrs.as<AxisAttrs>().axis != v.rank() - 1)
    return std::all_of(n.inputs.begin(), n.inputs.end(), [&](Value part) { return is_normalised(part, weights); });
  if (n.op->name == "add") {
    Value x = turned(n);
    return x && is_normalised(x, weights);
  }
  if (n.op->name != "multiply") return false;
  for (size_t i : {0, 1}) {
    Value weight = column_weight(n.inputs[1 - i]);
    if (below_casts(n.inputs[i])->op != &rms_norm_op || !weight) continue;
    weights.push_back(weight);
    return true;
  }
  return false;
}

bool is_self_attention(const Node& n) { return n.inputs[0].dim(1) == n.inputs[1].dim(1); }

/// Why self-attention is not rewritten; else the weights of its norms.
std::string why_not(const Node& n, int64_t least_keys, std::vector<Value>& weights) {
  Value q = n.inputs[0], k = n.inputs[1];
  if (n.inputs.size() != 3 || n.attrs.as<AttentionAttrs>().causal) return "there is a mask or a bias";
  if (q.dtype() != DType::bf16) return fmt::format("it is of {}", name(q.dtype()));
  constexpr int64_t kLargestHead = 256;
  const Dim& head = q.dim(3);
  if (!head.is_constant() || head.constant() % 16 != 0 || head.constant() > kLargestHead)
    return fmt::format("heads have {} elements, and multiples of 16 up to {} are possible", head.text(), kLargestHead);
  if (k.dim(1).is_constant() && k.dim(1).constant() < least_keys)
    return fmt::format("{} tokens are fewer than the {} from which it gains", k.dim(1).text(), least_keys);
  if (!is_normalised(q, weights) || !is_normalised(k, weights))
    return "queries and keys are not normalised, so that their range is not known";
  return {};
}

Value largest(Value a, Value b) { return elementwise("maximum", {a, b}); }

/// What 1 in f8e4m3 stands for where a magnitude becomes `top`, one f32 number like it.
Value unit_of(Value magnitude, double top) {
  return largest(magnitude * (1 / top), scalar(*magnitude->graph, kAboveZero, DType::f32));
}

/// For rows that were normalised over `size` elements. They are no longer than sqrt(size) * the largest weight, and turning a
/// pair makes neither of it longer than sqrt(2) * the pair. Room for that costs nothing: digits of a floating type do not depend
/// on the unit.
Value unit_of_normalised(const std::vector<Value>& weights, int64_t size) {
  constexpr double kRoom = 2;
  Value magnitude;
  for (Value weight : weights) {
    Value one = reduce_max(elementwise("absolute", {cast(weight, DType::f32)}), {-1});
    magnitude = magnitude ? largest(magnitude, one) : one;
  }
  return unit_of(magnitude, kLargestE4m3 / (kRoom * std::sqrt(double(size))));
}

/// The same for any values: the largest of each row, then of all.
Value unit_of_all(Value v) {
  while (v->op == &reshape_op) v = v->inputs[0];  // long rows
  // In the type that it has: a conversion that two kernels read would be made first, and kept.
  Value rows = reduce_max(elementwise("absolute", {v}), {-1});
  Value all = reduce_max(cast(reshape(rows, {Dim(1), element_count(rows.shape())}), DType::f32), {-1});
  return reshape(unit_of(all, kLargestE4m3), {1});
}

/// v / unit as f8e4m3, below whatever only moves it: parts of a concat are computed in their places.
Value narrowed(Value v, Value unit) {
  if (v->op == &cast_op && is_float(v->inputs[0].dtype())) return narrowed(v->inputs[0], unit);
  if (v->op == &reshape_op) return reshape(narrowed(v->inputs[0], unit), v.shape());
  if (v->op == &concat_op) {
    std::vector<Value> parts;
    for (Value part : v->inputs) parts.push_back(narrowed(part, unit));
    return concat(std::move(parts), int(v->attrs.as<AxisAttrs>().axis));
  }
  return cast(cast(v, DType::f32) / unit, DType::f8e4m3);
}

class Rewriting {
 public:
  explicit Rewriting(int64_t least_keys) : least_keys_(least_keys) {}

  Value operator()(const Node& n, std::span<const Value> in, Graph& to) {
    std::vector<Value> weights;
    if (n.op == &attention_op && is_self_attention(n) && why_not(n, least_keys_, weights).empty()) return attention(n, in, to);
    // Movement is of what is stored, so that whoever reads it converts just what it reads.
    auto at = in.empty() || !is_movement(n) ? results_.end() : results_.find(in[0].node());
    if (at == results_.end()) return {};
    Result moved{to.add(*n.op, {at->second.stored}, n.attrs), at->second.unit};
    return widened(moved);
  }

 private:
  struct Result {
    Value stored, unit;
  };

  Value attention(const Node& n, std::span<const Value> in, Graph& to) {
    std::vector<Value> weights;
    SINTER_ASSERT(is_normalised(in[0], weights) && is_normalised(in[1], weights));
    Value unit = unit_of_normalised(weights, in[0].dim(3).constant()), unit_of_v = unit_of_all(in[2]);
    Value q = narrowed(in[0], unit), k = narrowed(in[1], unit), v = narrowed(in[2], unit_of_v);
    return widened({to.add(fp8_attention_op, {q, k, v, unit}, n.attrs), unit_of_v});
  }

  Value widened(const Result& result) {
    Value wide = cast(cast(result.stored, DType::f32) * result.unit, DType::bf16);
    results_[wide.node()] = result;
    return wide;
  }

  int64_t least_keys_;
  std::unordered_map<const Node*, Result> results_;  // by what is read
};

}  // namespace

void use_fp8_attention(const Graph& from, Graph& to, int64_t least_keys) {
  Rewriting rewriting(least_keys);
  copy_graph(from, to, {}, [&](const Node& n, std::span<const Value> in, Graph& graph) { return rewriting(n, in, graph); });
}

std::string why_no_fp8_attention(const Graph& graph, int64_t least_keys) {
  const std::string none = "there is no self-attention";
  std::string why = none;
  for (Value v : topological_order(graph)) {
    std::vector<Value> weights;
    std::string here = none;
    if (v->op == &call_op)
      here = why_no_fp8_attention(v->attrs.as<CallAttrs>().function->graph, least_keys);
    else if (v->op == &attention_op && is_self_attention(*v))
      here = why_not(*v, least_keys, weights);
    if (here.empty()) return {};
    if (why == none) why = here;
  }
  return why;
}

}  // namespace sinter
