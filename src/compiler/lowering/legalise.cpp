#include <algorithm>
#include <unordered_map>

#include "compiler/lowering/fp8_attention.h"
#include "compiler/lowering/lower.h"
#include "compiler/lowering/lowered_ops.h"
#include "compiler/lowering/vendor_rules.h"

namespace sinter {

const OpDef group_scale_shift_op = {
    .name = "group_scale_shift",
    .summary = "Group normalisation of x[batch, ..., channels] as one scale and one shift a channel: [batch, 2, channels].",
    .infer = [](const Node& n) -> Type {
      return {n.inputs[0].dtype() == DType::f64 ? DType::f64 : DType::f32, {n.inputs[0].dim(0), 2, n.inputs[0].dim(-1)}};
    },
};

namespace {

bool has_lowering(const Node& n) {
  return n.op == &linear_op || n.op == &conv2d_op || n.op == &attention_op || n.op == &group_scale_shift_op;
}

/// A sum as one value and another that is the same for all pixels, [batch, channels].
struct PixelSum {
  Value x, addend;
};
std::optional<PixelSum> as_pixel_sum(Value sum) {
  if (sum->op->name != "add") return {};
  for (size_t i : {0, 1}) {
    Value addend = sum->inputs[i];
    if (addend->op == &broadcast_op) addend = addend->inputs[0];
    bool fits = addend.rank() == sum.rank() && addend.dim(0) == sum.dim(0) && addend.dim(-1) == sum.dim(-1);
    for (int d = 1; fits && d + 1 < sum.rank(); ++d) fits = addend.dim(d) == Dim(1);
    const Node* source = addend.node();
    while (source->op == &reshape_op) source = source->inputs[0].node();
    if (fits && source->op != &weight_op) return PixelSum{sum->inputs[1 - i], reshape(addend, {sum.dim(0), sum.dim(-1)})};
  }
  return {};
}

/// x * scale + shift, which fuses with its neighbours; only the statistics need a call. With `folds` a sum that nobody else reads
/// is not made: (x + addend) * scale + shift = x * scale + (addend * scale + shift).
Value expand_group_norm(const Node& n, std::span<const Value> in, Graph& to, bool folds) {
  Value x = in[0];
  Value gamma = cast(in[1], DType::f32), beta = cast(in[2], DType::f32);
  std::vector<Value> inputs{x, gamma, beta};
  if (auto sum = folds ? as_pixel_sum(x) : std::nullopt) {
    inputs = {sum->x, gamma, beta, sum->addend};
    x = sum->x;
  }
  Value affine = to.add(group_scale_shift_op, std::move(inputs), n.attrs);
  Shape row(size_t(x.rank()), Dim(1));
  row.front() = x.dim(0);
  row.back() = x.dim(-1);
  Value scale = reshape(slice(affine, 1, 0, 1), row), shift = reshape(slice(affine, 1, 1, 1), row);
  return cast(cast(x, DType::f32) * scale + shift, x.dtype());
}

/// How often each value is read, by nodes and as an output.
std::unordered_map<const Node*, int> count_readers(const Graph& graph) {
  std::unordered_map<const Node*, int> readers;
  for (Value v : topological_order(graph))
    for (Value input : v->inputs) ++readers[input.node()];
  for (const Output& output : graph.outputs()) ++readers[output.value.node()];
  return readers;
}

bool reduces_last_axis(const Node& n) {
  const auto& axes = n.attrs.as<AxesAttrs>().axes;
  return axes.size() == 1 && (axes[0] == -1 || axes[0] == n.inputs[0].rank() - 1);
}

/// Moves the reduced axes to the end, as one.
Value reduce_last_axis(const Node& n, Value x, Graph& to) {
  std::vector<int64_t> order, axes = n.attrs.as<AxesAttrs>().axes;
  for (int64_t& axis : axes) axis = axis < 0 ? axis + x.rank() : axis;
  Shape flat;
  Dim reduced = 1;
  for (int64_t i = 0; i < x.rank(); ++i)
    if (std::find(axes.begin(), axes.end(), i) == axes.end()) {
      order.push_back(i);
      flat.push_back(x.dim(int(i)));
    }
  for (int64_t axis : axes) {
    order.push_back(axis);
    reduced = reduced * x.dim(int(axis));
  }
  flat.push_back(reduced);
  Value rows = reshape(transpose(x, order), flat);
  Value sums = to.add(*n.op, {rows}, Attrs::of(AxesAttrs{{int64_t(flat.size()) - 1}}));
  return reshape(sums, n.type.shape);
}

}  // namespace

void legalise(const Graph& from, Graph& to, const LowerOptions& options) {
  Graph ruled, narrow;
  const Graph* current = &from;
  if (options.vendor && options.fuse) {
    apply_vendor_rules(from, ruled);
    current = &ruled;
    if (options.fp8_keys > 0) {
      use_fp8_attention(ruled, narrow, options.fp8_keys);
      current = &narrow;
    }
  }
  std::unique_ptr<Graph> last;
  for (bool again = true; again;) {
    again = false;
    auto next = std::make_unique<Graph>();
    const auto readers = count_readers(*current);
    auto rewrite = [&](const Node& n, std::span<const Value> in, Graph& graph) -> Value {
      if (has_lowering(n)) return {};
      if (n.op == &group_norm_op) {
        bool folds = options.vendor && options.fuse && readers.at(n.inputs[0].node()) == 1;
        return again = true, expand_group_norm(n, in, graph, folds);
      }
      if (n.op->expand) {
        again = true;  // what comes out may be composite again
        Value composite = graph.add(*n.op, {in.begin(), in.end()}, n.attrs);
        return n.op->expand(*composite);
      }
      if ((n.op == &reduce_sum_op || n.op == &reduce_max_op) && !reduces_last_axis(n)) return reduce_last_axis(n, in[0], graph);
      return {};
    };
    copy_graph(*current, *next, {}, rewrite);
    last = std::move(next);
    current = last.get();
  }
  copy_graph(*last, to);
}

}  // namespace sinter
