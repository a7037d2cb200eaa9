#include "compiler/lowering/lowering.h"

namespace sinter {

Lowering::Lowering(const Graph& graph, const LowerOptions& options)
    : graph_(graph), options_(options), order_(topological_order(graph)) {
  for (Value v : order_)
    for (Value input : v->inputs) users_[input.node()].push_back(v.node());
  for (const Output& output : graph.outputs()) users_[output.value.node()].push_back(nullptr);
  std::vector<Value> weights = own_weights(graph);
  for (size_t i = 0; i < weights.size(); ++i) ordinals_[weights[i].node()] = int(i);
  for (size_t i = 0; i < graph.inputs().size(); ++i) inputs_[graph.inputs()[i].node()] = int(i);
}

Program Lowering::run() {
  for (;;) {
    try {
      attempt();
      return std::move(program_);
    } catch (const NeedsMemory& need) {
      bool fresh = need.dense ? dense_.insert(need.node).second : in_memory_.insert(need.node).second;
      if (!fresh)
        fail(Code::Internal, "lowering cannot place node {} ({}) {}", need.node->id, need.node->op->name, need.node->type.text());
    }
  }
}

void Lowering::attempt() {
  program_ = {};
  homes_.clear();
  resident_ = in_memory_;
  fused_.clear();
  fused_call_.clear();
  prologue_.clear();
  tails_.clear();
  slots_.clear();
  quantised_.clear();
  callees_ = 0;
  find_residents();
  place_homes();
  for (Value v : order_) emit(v.node());
  for (size_t i = 0; i < graph_.outputs().size(); ++i) emit_output(int(i));
  find_lifetimes();
}

KernelUse Lowering::add_kernel(BuiltKernel built) {
  Digest digest = built.kernel.digest();
  for (size_t i = 0; i < program_.kernels.size(); ++i)
    if (program_.kernels[i].digest() == digest) built.use.kernel = int(i);
  if (built.use.kernel < 0) {
    built.use.kernel = int(program_.kernels.size());
    program_.kernels.push_back(std::move(built.kernel));
  }
  return std::move(built.use);
}

void Lowering::emit(const Node* n) {
  if (n->op == &result_op) {
    const Node* call = n->inputs[0].node();
    homes_[n] = dense_view({BufferRef::temporary, call_results_.at(call)[size_t(n->attrs.as<IndexAttrs>().index)]}, n->type);
    return;
  }
  if (!resident_.contains(n) || is_leaf(*n)) return;
  if (n->op == &linear_op || n->op == &conv2d_op) return emit_product_call(n, n);
  if (n->op == &matmul_op) return emit_matmul(n);
  if (n->op == &attention_op || n->op == &fp8_attention_op) return emit_attention(n);
  if (n->op == &group_scale_shift_op) return emit_group_stats(n);
  if (n->op == &embedding_op) return emit_embedding(n);
  if (n->op == &concat_op) return emit_concat(n);
  if (n->op == &call_op) return emit_call(n);
  if (!is_inline(*n)) fail(Code::Unsupported, "the CPU backend has no lowering for the op '{}'", n->op->name);
  if (auto at = fused_call_.find(n); at != fused_call_.end()) return emit_product_call(at->second, n);
  BuiltKernel built = build_kernel(n, residents(), homes_.at(n));
  if (can_quantise(n, built)) quantise_result(n, built);
  program_.steps.push_back(RowStep{add_kernel(std::move(built))});
}

void Lowering::copy(const View& from, const View& to) {
  // A copy is a kernel whose root is a movement that moves nothing.
  Graph scratch;
  Value in = scratch.input("x", {from.dtype, from.shape});
  Value same = scratch.add(broadcast_op, {in}, Attrs::of(ShapeAttrs{from.shape}));
  Residents direct;
  direct.home = [&](const Node* at) { return at == in.node() ? std::optional<View>(from) : std::nullopt; };
  program_.steps.push_back(RowStep{add_kernel(build_kernel(same.node(), direct, to))});
}

View Lowering::copyable(const Node* n) {
  View view = view_of(n, residents());
  if (view.scaled_columns()) throw NeedsMemory{n};
  return view;
}

View Lowering::copied(const View& from, DType dtype) {
  Type type{dtype, from.shape};
  View to = dense_view({BufferRef::temporary, temporary(element_count(type.shape) * Dim(byte_size(dtype)))}, type);
  copy(from, to);
  return to;
}

void Lowering::emit_output(int i) {
  const Node* n = graph_.outputs()[size_t(i)].value.node();
  View target = dense_view({BufferRef::result, i}, n->type);
  if (auto at = homes_.find(below_reshapes(n)); at != homes_.end() && at->second.buffer == target.buffer) return;
  copy(n, target);
}

void Lowering::find_lifetimes() {
  std::vector<bool> used(program_.temporaries.size(), false);
  for (size_t i = 0; i < program_.steps.size(); ++i) {
    for_each_buffer(program_.steps[i], [&](BufferRef b) {
      if (b.space != BufferRef::temporary) return;
      Temporary& t = program_.temporaries[size_t(b.index)];
      if (!used[size_t(b.index)]) t.first_step = int(i);
      used[size_t(b.index)] = true;
      t.last_step = int(i);
    });
  }
  for (size_t i = 0; i < used.size(); ++i)
    if (!used[i]) program_.temporaries[i].bytes = 0;
}

Program lower(const Graph& graph, const LowerOptions& options) { return Lowering(graph, options).run(); }

std::string kernel_symbol(size_t kernel) { return "sinter_kernel_" + std::to_string(kernel); }

}  // namespace sinter
