#include "compiler/lowering/lowering.h"

namespace sinter {

void Lowering::find_prologues() {
  for (Value v : order_) {
    if (v->op != &conv2d_op) continue;
    const Node* n = v->inputs[0].node();
    if (!is_inline(*n) || in_memory_.contains(n) || !has_one_user(n)) continue;
    const Node* b = base(n);
    bool alone = n == b || (has_one_user(b) && !in_memory_.contains(b));
    for (const Node* at = n; alone && at != b; at = at->inputs[0].node()) alone = has_one_user(at);
    bool pointwise = is_inline(*b) && !is_reduction(*b) && !rounds(*b) && alone;
    if (pointwise && !contains_reduction(b)) {
      resident_.erase(b);
      resident_.erase(n);
      prologue_.insert(v.node());
      roots_[b] = {v.node()};
    } else if (n != b && is_movement(*n)) {
      prologue_.insert(v.node());  // only a resizing copy
    }
  }
}

void Lowering::find_epilogues() {
  for (size_t i = order_.size(); i-- > 0;) {
    const Node* n = order_[i].node();
    bool fusable = (n->op == &linear_op && weight_of(n->inputs[1])) || n->op == &conv2d_op;
    if (!fusable || in_memory_.contains(n)) continue;
    std::set<const Node*> roots = kernel_roots(n);
    if (roots.size() != 1) continue;
    const Node* root = *roots.begin();
    if (!root || !is_inline(*root) || fused_call_.contains(root) || contains_reduction(root)) continue;
    bool output = false;
    for (const Node* user : users_.at(n)) output = output || !user;
    if (output) continue;
    fused_call_[root] = n;
    fused_[n] = root;
    resident_.erase(n);
  }
}

void Lowering::find_tails() {
  std::vector<const Node*> linears, convolutions;
  for (Value v : order_) {
    if (in_memory_.contains(v.node())) continue;
    if (is_linear(*v)) linears.push_back(v.node());
    if (v->op == &conv2d_op && !is_linear(*v)) convolutions.push_back(v.node());
  }
  // The sum of a linear layer and a convolution is part of the linear layer, which loses less by it. So what convolutions leave
  // in memory is known first, and they look for sums last.
  for (const Node* n : convolutions) set_tail(n, tail_of(n));
  for (const Node* n : linears) set_tail(n, tail_of(n));
  for (const Node* n : convolutions) set_tail(n, with_residual(n));
}

void Lowering::set_tail(const Node* n, const Tail& tail) {
  if (tail.root == n) return;
  if (auto before = tails_.find(n); before != tails_.end()) {
    fused_call_.erase(before->second.root);
    resident_.erase(before->second.root);
  }
  tails_[n] = tail;
  fused_call_[tail.root] = n;
  resident_.erase(n);
  resident_.insert(tail.root);
}

bool Lowering::is_linear(const Node& n) { return (n.op == &linear_op || is_pointwise_conv(n)) && weight_rows(n.inputs[1]); }

const Node* Lowering::after(const Tail& tail, const OpDef& op) const {
  if (!has_one_user(tail.root) || in_memory_.contains(tail.root)) return nullptr;
  const Node* user = users_.at(tail.root)[0];
  return user->op == &op && user->type == tail.root->type && !fused_call_.contains(user) ? user : nullptr;
}

std::pair<const Node*, Value> Lowering::sum_after(const Tail& tail) const {
  static const OpDef& kAdd = *find_op("add");
  const Node* sum = after(tail, kAdd);
  if (!sum) return {};
  return {sum, sum->inputs[sum->inputs[0].node() == tail.root ? 1 : 0]};
}

Lowering::Tail Lowering::tail_of(const Node* call) const {
  static const OpDef& kGelu = *find_op("gelu_tanh");
  Tail tail{call};
  const bool doubled = call->op == &conv2d_op && doubled_input(*call);
  if (doubled && !options_.doubled_bias) return tail;
  // In the kernel of another the bias of a doubled convolution costs nothing, and not every vendor has one that takes it.
  if (auto [sum, other] = sum_after(tail); sum && is_bias(other, call) && (!doubled || resident_.contains(sum))) {
    tail.bias = unbroadcast(other).node();
    tail.root = sum;
  }
  if (!is_linear(*call)) return tail;
  if (const Node* product = gated_halves(tail.root); product && !is_fp8(*call)) {
    tail.gated = true;
    tail.root = product;
  } else if (const Node* gelu = after(tail, kGelu)) {
    tail.gelu = true;
    tail.root = gelu;
  } else if (auto [sum, other] = sum_after(tail); sum && is_residual(other, tail.root)) {
    tail.residual = other.node();
    tail.root = sum;
  }
  return tail;
}

Lowering::Tail Lowering::with_residual(const Node* conv) const {
  auto at = tails_.find(conv);
  Tail tail = at != tails_.end() ? at->second : Tail{conv};
  auto [sum, other] = sum_after(tail);
  // A sum that is part of another kernel costs no pass of its own.
  if (!sum || !resident_.contains(sum) || doubled_input(*conv) || !is_residual(other, tail.root)) return tail;
  const Node* below = other.node();
  while (below->op == &reshape_op && !resident_.contains(below)) below = below->inputs[0].node();
  if (below != base(below)) return tail;  // spread or moved on its way
  tail.residual = other.node();
  tail.root = sum;
  return tail;
}

const Node* Lowering::gated_halves(const Node* whole) const {
  static const OpDef &kMultiply = *find_op("multiply"), &kGelu = *find_op("gelu");
  const DType type = whole->type.dtype;
  const Dim& columns = whole->type.shape.back();
  constexpr int64_t kChunks = 16;  // columns, so that each half is whole chunks of 16 bytes
  if (!options_.gated || !(type == DType::bf16 || type == DType::f16) || !columns.is_constant() ||
      columns.constant() % kChunks != 0)
    return nullptr;
  const std::vector<const Node*>& readers = users_.at(whole);
  auto half = [&](int64_t begin) -> const Node* {
    for (const Node* reader : readers) {
      if (!reader || reader->op != &slice_op) continue;
      const auto& a = reader->attrs.as<SliceAttrs>();
      if (a.axis == int64_t(whole->type.shape.size()) - 1 && a.begin == Dim(begin) && a.length == Dim(columns.constant() / 2))
        return reader;
    }
    return nullptr;
  };
  auto only_user = [&](const Node* n, const OpDef& op) -> const Node* {
    if (!n || !has_one_user(n) || in_memory_.contains(n)) return nullptr;
    const Node* user = users_.at(n)[0];
    return user->op == &op ? user : nullptr;
  };
  if (readers.size() != 2 || in_memory_.contains(whole)) return nullptr;
  const Node *value = half(0), *gate = half(columns.constant() / 2);
  const Node* product = only_user(value, kMultiply);
  bool gates = product && product == only_user(only_user(gate, kGelu), kMultiply) && product->type.dtype == type;
  return gates && !fused_call_.contains(product) ? product : nullptr;
}

bool Lowering::is_bias(Value v, const Node* call) const {
  v = unbroadcast(v);
  return weight_rows(v) && v.shape().size() == 1 && v.dim(0) == call->type.shape.back();
}

bool Lowering::is_residual(Value v, const Node* sum) const {
  const Node* n = base(v.node());
  return v.node() != sum && v.shape() == sum->type.shape && v.dtype() == sum->type.dtype && n != sum &&
         (resident_.contains(n) || n->op == &input_op || n->op == &result_op);
}

std::optional<KernelUse> Lowering::epilogue(const Node* call, const Node* root, int64_t columns, int parts) {
  const View& out = homes_.at(root);
  if (call == root && out.dtype == DType::f32 && row_stride(out)) return {};
  Residents r = residents();
  r.tile = call;
  r.tile_columns = columns;
  r.parts = parts;
  BuiltKernel built = build_kernel(root, r, out);
  int tiles = 0;
  for (const OperandUse& o : built.use.operands) tiles += o.tile;
  if (tiles != parts || !(built.use.columns == Dim(columns))) throw NeedsMemory{call};
  return add_kernel(std::move(built));
}

}  // namespace sinter
