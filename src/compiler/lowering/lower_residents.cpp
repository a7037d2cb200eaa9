#include "compiler/lowering/lowering.h"

namespace sinter {

bool is_inline(const Node& n) {
  return is_elementwise(*n.op) || n.op == &cast_op || n.op == &iota_op || n.op == &swap_pairs_op || is_reduction(n) ||
         is_movement(n);
}

namespace {
/// A conversion that loses digits or fractions must really happen: kernels compute in f32 throughout.
bool narrows(const Node& n) {
  if (n.op != &cast_op) return false;
  DType from = n.inputs[0].dtype(), to = n.type.dtype;
  if (!is_float(to)) return true;
  return is_float(from) && byte_size(to) < byte_size(from) && n.inputs[0]->op != &weight_op;
}
}  // namespace

bool Lowering::rounds(const Node& n) const {
  bool kept = options_.vendor && options_.fuse && n.op == &cast_op && is_float(n.inputs[0].dtype()) &&
              (n.type.dtype == DType::f16 || n.type.dtype == DType::bf16);
  return narrows(n) && !kept;
}

const Node* Lowering::base(const Node* n) const {
  while (is_movement(*n) && !resident_.contains(n)) n = n->inputs[0].node();
  return n;
}

void Lowering::want_in_memory(Value v) {
  const Node* n = base(v.node());
  if (is_inline(*n)) resident_.insert(n);
}

void Lowering::find_residents() {
  for (Value v : order_) {
    const Node& n = *v;
    if (options_.vendor && n.op == &concat_op && weight_rows(v)) continue;  // joined where weights are loaded
    if (is_call(n)) {
      resident_.insert(&n);
      for (Value input : n.inputs)
        if (!weight_of(input) && !(options_.vendor && weight_rows(input))) want_in_memory(input);
    } else if (is_inline(n) && (rounds(n) || (!options_.fuse && !is_movement(n) && !is_cheap(&n)))) {
      resident_.insert(&n);
    }
  }
  for (const Output& output : graph_.outputs()) {
    const Node* n = output.value.node();
    const Node* written = below_reshapes(n);
    if (written->op == &result_op || is_leaf(*written)) written = n;
    if (is_inline(*written)) resident_.insert(written);
  }
  // From the end: a value inside several kernels is computed once and kept, unless that is nothing to compute.
  for (size_t i = order_.size(); i-- > 0;) {
    const Node* n = order_[i].node();
    std::set<const Node*>& roots = roots_[n];
    roots.clear();
    for (const Node* user : users_[n]) {
      if (!user) continue;
      if (resident_.contains(user) || user->op == &result_op)
        roots.insert(user);
      else
        roots.insert(roots_[user].begin(), roots_[user].end());
    }
    if (is_inline(*n) && !is_movement(*n) && !resident_.contains(n) && roots.size() > 1 && !is_cheap(n)) resident_.insert(n);
  }
  if (options_.fuse) {
    if (options_.vendor) {
      find_tails();
    } else {
      find_prologues();
      find_epilogues();
    }
  }
}

bool Lowering::is_cheap(const Node* n) const {
  int budget = 4;
  std::vector<const Node*> todo{n};
  while (!todo.empty()) {
    const Node* at = todo.back();
    todo.pop_back();
    if (at->op == &weight_op || at->op == &constant_op) continue;
    bool counts = is_elementwise(*at->op) || at->op == &iota_op;
    if (!(counts || is_movement(*at) || at->op == &cast_op) || (counts && budget-- == 0)) return false;
    for (Value input : at->inputs) todo.push_back(input.node());
  }
  return true;
}

bool Lowering::has_one_user(const Node* n) const {
  auto at = users_.find(n);
  return at != users_.end() && at->second.size() == 1 && at->second[0];
}

bool Lowering::contains_reduction(const Node* n) const {
  if (resident_.contains(n) && !is_inline(*n)) return false;
  if (is_reduction(*n)) return true;
  for (Value input : n->inputs)
    if (!resident_.contains(input.node()) && is_inline(*input) && contains_reduction(input.node())) return true;
  return false;
}

std::set<const Node*> Lowering::kernel_roots(const Node* n) const {
  std::set<const Node*> roots;
  for (const Node* user : users_.at(n)) {
    if (!user) return {nullptr};
    if (resident_.contains(user) || is_call(*user) || user->op == &result_op) {
      roots.insert(user);
    } else {
      std::set<const Node*> above = kernel_roots(user);
      roots.insert(above.begin(), above.end());
    }
  }
  return roots;
}

}  // namespace sinter
