#include "compiler/lowering/lower.h"

#include <algorithm>
#include <set>
#include <unordered_map>
#include <unordered_set>

#include "compiler/lowering/kernel_builder.h"
#include "compiler/lowering/lowered_ops.h"

namespace sinter {
namespace {

bool is_scalar_constant(const Node& n) { return n.op == &constant_op && n.attrs.as<ConstantAttrs>().value.count() == 1; }
bool is_leaf(const Node& n) { return n.op == &input_op || n.op == &weight_op || n.op == &constant_op; }
bool is_reduction(const Node& n) { return n.op == &reduce_sum_op || n.op == &reduce_max_op; }

/// Computed inside row kernels, unless something wants it in memory.
bool is_inline(const Node& n) {
  return is_elementwise(*n.op) || n.op == &cast_op || n.op == &iota_op || n.op == &swap_pairs_op || is_reduction(n) ||
         is_movement(n);
}
bool is_call(const Node& n) { return !is_leaf(n) && !is_inline(n) && n.op != &result_op; }

/// A conversion that loses digits or fractions must really happen: kernels compute in f32 throughout.
bool narrows(const Node& n) {
  if (n.op != &cast_op) return false;
  DType from = n.inputs[0].dtype(), to = n.type.dtype;
  if (!is_float(to)) return true;
  return is_float(from) && byte_size(to) < byte_size(from) && n.inputs[0]->op != &weight_op;
}

const Node* weight_of(Value v) {
  const Node* n = v.node();
  if (n->op == &cast_op) n = n->inputs[0].node();
  return n->op == &weight_op ? n : nullptr;
}

/// A window of one pixel over whole channels is a linear layer.
bool is_pointwise_conv(const Node& n) {
  if (n.op != &conv2d_op) return false;
  const auto& a = n.attrs.as<ConvAttrs>();
  const Shape& window = n.inputs[1].shape();
  return window[2] == Dim(1) && window[3] == Dim(1) && a.stride == 1 && a.top + a.left + a.bottom + a.right == 0;
}

class Lowering {
 public:
  Lowering(const Graph& graph, const LowerOptions& options) : graph_(graph), options_(options), order_(topological_order(graph)) {
    for (Value v : order_)
      for (Value input : v->inputs) users_[input.node()].push_back(v.node());
    for (const Output& output : graph.outputs()) users_[output.value.node()].push_back(nullptr);
    std::vector<Value> weights = own_weights(graph);
    for (size_t i = 0; i < weights.size(); ++i) ordinals_[weights[i].node()] = int(i);
    for (size_t i = 0; i < graph.inputs().size(); ++i) inputs_[graph.inputs()[i].node()] = int(i);
  }

  Program run() {
    for (;;) {
      try {
        attempt();
        return std::move(program_);
      } catch (const NeedsMemory& need) {
        bool fresh = need.dense ? dense_.insert(need.node).second : in_memory_.insert(need.node).second;
        if (!fresh)
          fail(Code::Internal, "lowering cannot place node {} ({}) {}", need.node->id, need.node->op->name,
               need.node->type.text());
      }
    }
  }

 private:
  void attempt() {
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

  // What lies in memory --------------------------------------------------------------------------------------------------

  /// Kernels of a GPU keep a value's f32 digits where the graph rounds it between two pointwise ops: nothing is gained by losing
  /// them, and a pass over memory is saved.
  bool rounds(const Node& n) const {
    bool kept = options_.vendor && options_.fuse && n.op == &cast_op && is_float(n.inputs[0].dtype()) &&
                (n.type.dtype == DType::f16 || n.type.dtype == DType::bf16);
    return narrows(n) && !kept;
  }

  /// The value below movement ops.
  const Node* base(const Node* n) const {
    while (is_movement(*n) && !resident_.contains(n)) n = n->inputs[0].node();
    return n;
  }

  void want_in_memory(Value v) {
    const Node* n = base(v.node());
    if (is_inline(*n)) resident_.insert(n);
  }

  void find_residents() {
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

  /// A few operations on weights, constants and index ramps alone.
  bool is_cheap(const Node* n) const {
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

  bool has_one_user(const Node* n) const {
    auto at = users_.find(n);
    return at != users_.end() && at->second.size() == 1 && at->second[0];
  }

  /// Pointwise work on the input of one convolution with a window is done while its padded tiles are filled.
  void find_prologues() {
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

  bool contains_reduction(const Node* n) const {
    if (resident_.contains(n) && !is_inline(*n)) return false;
    if (is_reduction(*n)) return true;
    for (Value input : n->inputs)
      if (!resident_.contains(input.node()) && is_inline(*input) && contains_reduction(input.node())) return true;
    return false;
  }

  /// A linear or convolution whose result only one pointwise kernel reads becomes part of it.
  void find_epilogues() {
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

  /// What follows a product or convolution and its vendor can do: bias, then GELU or a residual.
  struct Tail {
    const Node *root = nullptr, *bias = nullptr, *residual = nullptr;
    bool gelu = false;
  };

  void find_tails() {
    for (size_t i = 0; i < order_.size(); ++i) {
      const Node* n = order_[i].node();
      if (!(n->op == &linear_op && weight_rows(n->inputs[1])) && n->op != &conv2d_op) continue;
      if (in_memory_.contains(n)) continue;
      Tail tail = tail_of(n);
      if (tail.root == n) continue;
      tails_[n] = tail;
      fused_call_[tail.root] = n;
      resident_.erase(n);
      resident_.insert(tail.root);
    }
  }

  Tail tail_of(const Node* call) const {
    Tail tail{call};
    static const OpDef &kAdd = *find_op("add"), &kGelu = *find_op("gelu_tanh");
    auto next = [&](const OpDef& op) -> const Node* {
      if (!has_one_user(tail.root) || in_memory_.contains(tail.root)) return nullptr;
      const Node* user = users_.at(tail.root)[0];
      return user->op == &op && user->type == call->type && !fused_call_.contains(user) ? user : nullptr;
    };
    auto other = [&](const Node* sum) { return sum->inputs[sum->inputs[0].node() == tail.root ? 1 : 0]; };
    if (const Node* sum = next(kAdd); sum && is_bias(other(sum), call)) {
      tail.bias = unbroadcast(other(sum)).node();
      tail.root = sum;
    }
    bool linear = call->op == &linear_op || is_pointwise_conv(*call);
    if (!linear) return tail;
    if (const Node* gelu = next(kGelu)) {
      tail.gelu = true;
      tail.root = gelu;
    } else if (const Node* sum = next(kAdd); sum && is_residual(other(sum), tail.root)) {
      tail.residual = other(sum).node();
      tail.root = sum;
    }
    return tail;
  }

  bool is_bias(Value v, const Node* call) const {
    v = unbroadcast(v);
    return weight_rows(v) && v.shape().size() == 1 && v.dim(0) == call->type.shape.back();
  }
  static Value unbroadcast(Value v) { return v->op == &broadcast_op ? v->inputs[0] : v; }
  /// In memory before the call, and of the same shape.
  bool is_residual(Value v, const Node* sum) const {
    const Node* n = base(v.node());
    return v.node() != sum && v.shape() == sum->type.shape && v.dtype() == sum->type.dtype && n != sum &&
           (resident_.contains(n) || n->op == &input_op || n->op == &result_op);
  }

  /// The kernels that would read `n` as it stands.
  std::set<const Node*> kernel_roots(const Node* n) const {
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

  // Homes ----------------------------------------------------------------------------------------------------------------

  int temporary(Dim bytes) {
    program_.temporaries.push_back({std::move(bytes), 0, 0});
    return int(program_.temporaries.size()) - 1;
  }

  View new_home(const Node* n) {
    int index = temporary(element_count(n->type.shape) * Dim(byte_size(n->type.dtype)));
    return dense_view({BufferRef::temporary, index}, n->type);
  }

  void place_homes() {
    for (const auto& [node, index] : inputs_) homes_[node] = dense_view({BufferRef::parameter, index}, node->type);
    for (size_t i = 0; i < graph_.outputs().size(); ++i) {
      const Node* n = below_reshapes(graph_.outputs()[i].value.node());
      if (resident_.contains(n) && n->op != &call_op && !homes_.contains(n))
        homes_[n] = dense_view({BufferRef::result, int(i)}, n->type);
    }
    // Users first: the parts of a concat are written in their places.
    for (size_t i = order_.size(); i-- > 0;) {
      const Node* n = order_[i].node();
      if (!resident_.contains(n) || is_leaf(*n)) continue;
      if (!homes_.contains(n)) homes_[n] = new_home(n);
      if (n->op == &concat_op) place_parts(n);
    }
  }

  View part_of_concat(const Node* concat, size_t part) const {
    View view = homes_.at(concat);
    auto axis = size_t(concat->attrs.as<AxisAttrs>().axis);
    Dim begin = 0;
    for (size_t p = 0; p < part; ++p) begin = begin + concat->inputs[p]->type.shape[axis];
    view.offset = view.offset + begin * view.strides[axis];
    view.shape = concat->inputs[part]->type.shape;
    return view;
  }

  /// What only changes shape on its way to `n` can be written where `n` is wanted.
  const Node* below_reshapes(const Node* n) const {
    while (n->op == &reshape_op && !resident_.contains(n) && has_one_user(n->inputs[0].node())) n = n->inputs[0].node();
    return n;
  }

  void place_parts(const Node* concat) {
    for (size_t p = 0; p < concat->inputs.size(); ++p) {
      const Node* n = below_reshapes(concat->inputs[p].node());
      bool movable = resident_.contains(n) && n->op != &call_op && n->op != &embedding_op && n->op != &matmul_op &&
                     n->op != &group_scale_shift_op;
      if (!movable || homes_.contains(n) || dense_.contains(n)) continue;
      if (auto view = reshaped(part_of_concat(concat, p), n->type.shape)) homes_[n] = *view;
    }
  }

  int slot(const Node* weight, WeightSlot::Form form, PanelType panels = PanelType::f32, int parts = 1) {
    return slot({{ordinals_.at(weight)}, form, panels, parts});
  }
  int slot(const WeightSlot& wanted) {
    auto [at, fresh] = slots_.try_emplace(wanted, int(program_.weights.size()));
    if (fresh) program_.weights.push_back(wanted);
    return at->second;
  }

  /// Rows of one or more weights, one below the other.
  struct WeightRows {
    std::vector<const Node*> weights;
    int64_t first = 0;
  };
  /// What a value made of weights by cast, concat and slice of rows is; nothing for any other value.
  static std::optional<WeightRows> weight_rows(Value v) {
    const Node* n = v.node();
    if (n->op == &weight_op) return WeightRows{{n}};
    if (n->op == &cast_op) return weight_rows(n->inputs[0]);
    if (n->op == &slice_op && n->attrs.as<SliceAttrs>().axis == 0 && n->attrs.as<SliceAttrs>().begin.is_constant()) {
      auto rows = weight_rows(n->inputs[0]);
      if (rows) rows->first += n->attrs.as<SliceAttrs>().begin.constant();
      return rows;
    }
    if (n->op != &concat_op || n->attrs.as<AxisAttrs>().axis != 0) return {};
    WeightRows all;
    for (Value input : n->inputs) {
      auto part = weight_rows(input);
      bool whole = part && part->first == 0 && part->weights.size() == 1 && input.shape() == part->weights[0]->type.shape;
      if (!whole) return {};
      all.weights.push_back(part->weights[0]);
    }
    return all;
  }
  int rows_slot(const WeightRows& rows, DType type) {
    bool e4m3 = type == DType::f8e4m3;
    WeightSlot wanted{{}, e4m3 ? WeightSlot::e4m3_rows : WeightSlot::rows, e4m3 ? PanelType::f32 : panel_type(type), 1};
    for (const Node* weight : rows.weights) wanted.ordinals.push_back(ordinals_.at(weight));
    return slot(wanted);
  }

  std::optional<View> home(const Node* n) {
    bool placed = resident_.contains(n) || n->op == &input_op || n->op == &result_op || n->op == &constant_op;
    if (auto at = homes_.find(n); placed && at != homes_.end()) return at->second;
    if (n->op == &weight_op) return dense_view({BufferRef::weight, slot(n, WeightSlot::plain)}, n->type);
    if (n->op == &constant_op && (!is_scalar_constant(*n) || in_memory_.contains(n))) {
      program_.constants.push_back(n->attrs.as<ConstantAttrs>().value);
      return homes_[n] = dense_view({BufferRef::constant, int(program_.constants.size()) - 1}, n->type);
    }
    return {};
  }

  Residents residents() {
    return {[this](const Node* n) { return home(n); }, nullptr, 0, 1};
  }

  // Steps ----------------------------------------------------------------------------------------------------------------

  KernelUse add_kernel(BuiltKernel built) {
    Digest digest = built.kernel.digest();
    for (size_t i = 0; i < program_.kernels.size(); ++i)
      if (program_.kernels[i].digest() == digest) built.use.kernel = int(i);
    if (built.use.kernel < 0) {
      built.use.kernel = int(program_.kernels.size());
      program_.kernels.push_back(std::move(built.kernel));
    }
    return std::move(built.use);
  }

  void emit(const Node* n) {
    if (n->op == &result_op) {
      const Node* call = n->inputs[0].node();
      homes_[n] = dense_view({BufferRef::temporary, call_results_.at(call)[size_t(n->attrs.as<IndexAttrs>().index)]}, n->type);
      return;
    }
    if (!resident_.contains(n) || is_leaf(*n)) return;
    if (n->op == &linear_op || n->op == &conv2d_op) return emit_product_call(n, n);
    if (n->op == &matmul_op) return emit_matmul(n);
    if (n->op == &attention_op) return emit_attention(n);
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

  /// Elements of one view into those of another of the same shape, converted to its type.
  void copy(const View& from, const View& to) {
    // A copy is a kernel whose root is a movement that moves nothing.
    Graph scratch;
    Value in = scratch.input("x", {from.dtype, from.shape});
    Value same = scratch.add(broadcast_op, {in}, Attrs::of(ShapeAttrs{from.shape}));
    Residents direct;
    direct.home = [&](const Node* at) { return at == in.node() ? std::optional<View>(from) : std::nullopt; };
    program_.steps.push_back(RowStep{add_kernel(build_kernel(same.node(), direct, to))});
  }
  void copy(const Node* n, const View& to) { copy(copyable(n), to); }

  /// A view that a kernel can read.
  View copyable(const Node* n) {
    View view = view_of(n, residents());
    if (view.scaled_columns()) throw NeedsMemory{n};
    return view;
  }

  /// A dense copy of a view in a temporary.
  View copied(const View& from, DType dtype) {
    Type type{dtype, from.shape};
    View to = dense_view({BufferRef::temporary, temporary(element_count(type.shape) * Dim(byte_size(dtype)))}, type);
    copy(from, to);
    return to;
  }

  void emit_output(int i) {
    const Node* n = graph_.outputs()[size_t(i)].value.node();
    View target = dense_view({BufferRef::result, i}, n->type);
    if (auto at = homes_.find(below_reshapes(n)); at != homes_.end() && at->second.buffer == target.buffer) return;
    copy(n, target);
  }

  static Place place(const View& view) { return {view.buffer, view.offset}; }

  /// Of all axes but the last.
  static Dim rows_count(const Shape& shape) { return element_count({shape.begin(), shape.end() - 1}); }

  /// The rows of an operand of a product; throws NeedsMemory where they are no rows.
  std::pair<View, Dim> rows_of(Value v) {
    View view = view_of(v.node(), residents());
    auto stride = row_stride(view);
    if (!stride) throw NeedsMemory{v.node(), resident_.contains(v.node())};
    return {view, *stride};
  }

  PanelType panels_for(const Node* weight, DType compute, bool even) const {
    PanelType type = panel_type(weight->type.dtype);
    if (compute == DType::bf16) type = options_.bf16_dot && even ? PanelType::bf16_dot : PanelType::bf16;
    return type;
  }

  /// The kernel that turns tiles of `call` into `root`; nothing where the tiles can be stored as they are.
  std::optional<KernelUse> epilogue(const Node* call, const Node* root, int64_t columns, int parts) {
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

  template <class CallStepType>
  void set_result(CallStepType& step, const Node* root) {
    if (step.epilogue) return;
    const View& out = homes_.at(root);
    step.out = place(out);
    step.out_stride = *row_stride(out);
  }

  void emit_product_call(const Node* n, const Node* root) {
    bool linear = n->op == &linear_op || (options_.vendor && is_pointwise_conv(*n) && weight_rows(n->inputs[1]));
    if (linear && options_.vendor && weight_rows(n->inputs[1])) return emit_vendor_linear(n, root);
    if (linear) return emit_linear(n, root);
    emit_conv(n, root);
  }

  /// A view as `batch` times rows: the first axis, and all but the last of the others. Nothing where the view is none.
  struct BatchedRows {
    View view;
    Dim batch_stride = 0, stride = 0;
    bool together = true;  ///< the batches follow each other like rows
  };
  static std::optional<BatchedRows> batched_rows(const View& view) {
    if (auto stride = row_stride(view)) {
      Dim rows = element_count({view.shape.begin() + (view.shape.size() > 1), view.shape.end() - 1});
      return BatchedRows{view, rows * *stride, *stride};
    }
    if (view.scaled() || view.shape.size() < 3) return {};
    View one = view;
    one.shape.erase(one.shape.begin());
    one.strides.erase(one.strides.begin());
    auto stride = row_stride(one);
    if (!stride) return {};
    return BatchedRows{view, view.strides[0], *stride, false};
  }
  BatchedRows batched_rows_of(Value v) {
    View view = view_of(v.node(), residents());
    auto rows = batched_rows(view);
    if (!rows) throw NeedsMemory{v.node(), resident_.contains(v.node())};
    return *rows;
  }

  /// A home with gaps that rows cannot cross is copied to from a temporary.
  View writable_rows(const Node* root) {
    const View& home = homes_.at(root);
    return batched_rows(home) ? home : writable_dense(root);
  }
  View writable_dense(const Node* root) {
    const View& home = homes_.at(root);
    int index = temporary(element_count(root->type.shape) * Dim(byte_size(home.dtype)));
    return dense_view({BufferRef::temporary, index}, {home.dtype, root->type.shape});
  }
  void copy_home(const Node* root, const View& from) {
    const View& home = homes_.at(root);
    if (!(home.buffer == from.buffer)) copy(from, home);
  }

  /// A linear layer whose product is made in f8e4m3.
  bool is_fp8(const Node& n) const {
    bool linear = n.op == &linear_op || is_pointwise_conv(n);
    auto rows = linear && options_.vendor && options_.fp8_width > 0 ? weight_rows(n.inputs[1]) : std::nullopt;
    if (!rows) return false;
    Value x = n.inputs[0];
    auto fits = [&](const Dim& width) { return width.constant() >= options_.fp8_width && width.constant() % 16 == 0; };
    return x.rank() >= 3 && x.dtype() == DType::bf16 && n.type.dtype == DType::bf16 && fits(x.dim(-1)) &&
           fits(n.type.shape.back()) && rows->first % 16 == 0;
  }

  /// What is quantised, and where the results are.
  struct Quantised {
    BufferRef buffer;
    Dim offset, batch, batch_stride, m, stride;
    int64_t k;
    BatchedRows rows;
    Place scales;
    bool is_of(const Quantised& other) const {
      return buffer == other.buffer && offset == other.offset && batch == other.batch && m == other.m && stride == other.stride &&
             k == other.k && (batch == Dim(1) || batch_stride == other.batch_stride);
    }
  };
  static Quantised quantised_rows(const BatchedRows& a) {
    const Shape& shape = a.view.shape;
    Dim batch = a.together ? Dim(1) : shape[0];
    Dim m = a.together ? rows_count(shape) : element_count({shape.begin() + 1, shape.end() - 1});
    return {a.view.buffer, a.view.offset, batch, a.batch_stride, m, a.stride, shape.back().constant(), {}, {}};
  }
  /// Temporaries for rows as f8e4m3, dense, and their factors.
  void place_quantised(Quantised& q, const Shape& shape) {
    Dim rows = element_count({shape.begin(), shape.end() - 1});
    View data = dense_view({BufferRef::temporary, temporary(rows * Dim(q.k))}, {DType::f8e4m3, shape});
    q.rows = *batched_rows(data);
    q.scales = {{BufferRef::temporary, temporary(rows * Dim(4))}, 0};
  }

  /// The rows as f8e4m3; made once for all that read them.
  Quantised quantised(const BatchedRows& a) {
    Quantised q = quantised_rows(a);
    for (const Quantised& other : quantised_)
      if (other.is_of(q)) return other;
    place_quantised(q, a.view.shape);
    QuantiseStep step{q.batch, q.m, q.k, a.view.dtype, place(a.view), place(q.rows.view), q.scales, a.stride, a.batch_stride};
    program_.steps.push_back(std::move(step));
    quantised_.push_back(q);
    return q;
  }

  /// A row kernel can give its result as f8e4m3 itself where nobody reads it otherwise.
  bool can_quantise(const Node* n, const BuiltKernel& built) const {
    if (!options_.fuse || options_.fp8_width <= 0) return false;
    const View& home = homes_.at(n);
    constexpr int64_t kMostColumns = 16384;  // longer rows are not kept between the search for the largest and the store
    const Dim& columns = built.use.columns;
    bool rows = home.buffer.space == BufferRef::temporary && home.offset == Dim(0) && is_dense(home) && columns.is_constant() &&
                columns.constant() <= kMostColumns && columns == home.shape.back();
    return rows && built.kernel.operands.back().column == ColumnAccess::dense && only_fp8_reads(n, columns);
  }
  bool only_fp8_reads(const Node* n, const Dim& columns) const {
    for (const Node* user : users_.at(n)) {
      if (!user) return false;
      bool product = is_fp8(*user) && user->inputs[0].node() == n && n->type.shape.back() == columns;
      bool reshape = user->op == &reshape_op && !resident_.contains(user) && user->type.shape.back() == columns;
      if (!product && !(reshape && only_fp8_reads(user, columns))) return false;
    }
    return true;
  }

  /// The same kernel, whose last step then stores rows as f8e4m3, and one more their factors.
  void quantise_result(const Node* n, BuiltKernel& built) {
    const View& home = homes_.at(n);
    Quantised q = quantised_rows(*batched_rows(home));
    place_quantised(q, home.shape);
    RowKernel& kernel = built.kernel;
    KernelUse& use = built.use;
    auto add = [&](KernelStep step) {
      kernel.body.push_back(step);
      return int(kernel.body.size()) - 1;
    };
    auto number = [&](double value) { return add({.kind = KernelStep::constant, .value = value}); };
    auto primitive = [&](Prim prim, int a, int b = -1) {
      return add({.kind = KernelStep::primitive, .prim = prim, .a = a, .b = b});
    };
    constexpr double kLargestE4m3 = 448, kAboveZero = 1e-30;  // rows of zeros stay zeros
    KernelStep store = kernel.body.back();
    kernel.body.pop_back();
    int largest = add({.kind = KernelStep::reduce_max, .a = primitive(Prim::abs, store.a)});
    largest = primitive(Prim::maximum, largest, number(kAboveZero));
    int scale = primitive(Prim::multiply, largest, number(1 / kLargestE4m3));
    int factor = primitive(Prim::divide, number(kLargestE4m3), largest);
    store.a = primitive(Prim::multiply, store.a, factor);
    kernel.operands.back().dtype = DType::f8e4m3;
    use.operands.back().buffer = q.rows.view.buffer;
    add(store);

    OperandUse scales{q.scales.buffer, false, 0, std::vector<Dim>(use.outer.size()), 0, {}};
    Dim stride = 1;
    for (size_t d = use.outer.size(); d-- > 0; stride = stride * use.outer[d]) scales.strides[d] = stride;
    kernel.operands.push_back({DType::f32, ColumnAccess::broadcast, RowAccess::dims, true});
    use.operands.push_back(std::move(scales));
    add({.kind = KernelStep::store, .a = scale, .operand = int(kernel.operands.size()) - 1});
    quantised_.push_back(std::move(q));
  }

  void emit_vendor_linear(const Node* n, const Node* root) {
    LinearStep step;
    WeightRows rows = *weight_rows(n->inputs[1]);
    Value x = n->inputs[0];
    BatchedRows a = batched_rows_of(x);
    if (is_fp8(*n)) {
      Quantised q = quantised(a);
      step.a_scales = q.scales;
      a = q.rows;
    }
    View target = writable_rows(root);
    BatchedRows out = *batched_rows(target);
    bool together = a.together && out.together;
    step.k = x.dim(-1).constant();
    step.n = n->type.shape.back().constant();
    step.weight = rows_slot(rows, a.view.dtype);
    step.weight_row = rows.first;
    VendorTail& tail = step.tail.emplace();
    tail.out_type = target.dtype;
    if (auto at = tails_.find(n); at != tails_.end()) {
      tail.gelu = at->second.gelu;
      if (at->second.bias) {
        WeightRows bias = *weight_rows(Value(at->second.bias));
        if (bias.first != rows.first) throw NeedsMemory{n};
        tail.bias = rows_slot(bias, tail.out_type);
      }
      if (at->second.residual) {
        BatchedRows residual = batched_rows_of(Value(at->second.residual));
        if (residual.view.dtype != tail.out_type) throw NeedsMemory{n};
        together = together && residual.together;
        tail.adds = true;
        tail.residual = place(residual.view);
        tail.residual_stride = residual.stride, tail.residual_batch_stride = residual.batch_stride;
      }
    }
    step.a = place(a.view), step.a_stride = a.stride, step.a_type = a.view.dtype, step.a_batch_stride = a.batch_stride;
    step.out = place(target), step.out_stride = out.stride, step.out_batch_stride = out.batch_stride;
    step.batch = together ? Dim(1) : x.dim(0);
    step.m = together ? rows_count(x.shape()) : element_count({x.shape().begin() + 1, x.shape().end() - 1});
    program_.steps.push_back(std::move(step));
    copy_home(root, target);
  }

  void emit_linear(const Node* n, const Node* root) {
    const Node* weight = weight_of(n->inputs[1]);
    if (!weight) return emit_product(n->inputs[0], n->inputs[1], n, true);
    LinearStep step;
    auto [a, stride] = rows_of(n->inputs[0]);
    step.a = place(a);
    step.a_stride = stride;
    step.a_type = a.dtype;
    step.k = n->inputs[0].dim(-1).constant();
    int64_t n_total = weight->type.shape[0].constant();
    Dim columns = root == n ? Dim(n_total) : root->type.shape.back();
    if (!columns.is_constant() || n_total % columns.constant() != 0) throw NeedsMemory{n};
    step.n = columns.constant();
    step.parts = int32_t(n_total / step.n);
    if (step.parts > kMaxTiles) throw NeedsMemory{n};
    step.m = rows_count(n->inputs[0].shape());
    step.weight = slot(weight, WeightSlot::matrix, panels_for(weight, a.dtype, true), step.parts);
    step.epilogue = epilogue(n, root, step.n, step.parts);
    set_result(step, root);
    program_.steps.push_back(std::move(step));
  }

  void emit_conv(const Node* n, const Node* root) {
    const Node* weight = weight_of(n->inputs[1]);
    const auto& a = n->attrs.as<ConvAttrs>();
    Value x = n->inputs[0];
    ConvStep step;
    step.n = x.dim(0), step.h = x.dim(1), step.w = x.dim(2), step.c = x.dim(3).constant();
    const Shape& window = n->inputs[1].shape();
    step.out_c = window[0].constant(), step.kernel_h = window[2].constant(), step.kernel_w = window[3].constant();
    step.stride = a.stride, step.top = a.top, step.left = a.left, step.bottom = a.bottom, step.right = a.right;
    step.in_type = x.dtype();
    if (prologue_.contains(n)) {
      step.prologue = add_kernel(build_kernel(x.node(), residents(), {}));
    } else {
      if (options_.vendor) dense_operand(x);
      auto [view, stride] = rows_of(x);
      step.in = place(view);
      step.in_type = view.dtype;
      step.pixel_stride = stride;
    }
    if (weight && options_.vendor) {
      step.weight = slot(weight, WeightSlot::filters, panel_type(step.in_type));
    } else if (weight) {
      step.weight = slot(weight, WeightSlot::convolution, panels_for(weight, step.in_type, step.c % 2 == 0));
    } else {
      View filter = options_.vendor ? filters_of(n->inputs[1], step.in_type) : dense_operand(n->inputs[1]);
      step.computed = true;
      step.filter_type = filter.dtype;
      step.filter = place(filter);
    }
    if (options_.vendor) {
      View target = is_dense(homes_.at(root)) ? homes_.at(root) : writable_dense(root);
      step.tail.emplace().out_type = target.dtype;
      if (auto at = tails_.find(n); at != tails_.end() && at->second.bias)
        step.tail->bias = rows_slot(*weight_rows(Value(at->second.bias)), target.dtype);
      step.out = place(target);
      step.out_stride = *row_stride(target);
      program_.steps.push_back(std::move(step));
      return copy_home(root, target);
    }
    step.epilogue = epilogue(n, root, step.out_c, 1);
    set_result(step, root);
    program_.steps.push_back(std::move(step));
  }

  /// Computed filters [out, in, height, width] as [out, height, width, in].
  View filters_of(Value v, DType type) {
    View view = copyable(v.node());
    std::rotate(view.shape.begin() + 1, view.shape.begin() + 2, view.shape.end());
    std::rotate(view.strides.begin() + 1, view.strides.begin() + 2, view.strides.end());
    if (view.scaled()) throw NeedsMemory{v.node()};
    return copied(view, type);
  }

  View dense_operand(Value v) {
    View view = view_of(v.node(), residents());
    if (!is_dense(view)) throw NeedsMemory{v.node(), resident_.contains(v.node())};
    return view;
  }

  void emit_matmul(const Node* n) {
    // b[.., k, n] is wanted as [.., n, k]: a transposed copy, made once.
    Value b = n->inputs[1];
    View view = view_of(b.node(), residents());
    if (view.scaled()) throw NeedsMemory{b.node()};
    std::swap(view.shape[view.shape.size() - 1], view.shape[view.shape.size() - 2]);
    std::swap(view.strides[view.strides.size() - 1], view.strides[view.strides.size() - 2]);
    View turned = copied(view, b.dtype());
    add_product(dense_operand(n->inputs[0]), turned, n, false);
  }

  void emit_product(Value a, Value b, const Node* n, bool shared_b) {
    add_product(dense_operand(a), dense_operand(b), n, shared_b);
  }

  void add_product(const View& a, const View& b, const Node* n, bool shared_b) {
    MatmulStep step;
    size_t rank = a.shape.size();
    step.k = a.shape.back();
    step.n = b.shape[b.shape.size() - 2];
    step.m = shared_b ? rows_count(a.shape) : a.shape[rank - 2];
    step.batch = shared_b ? Dim(1) : element_count({a.shape.begin(), a.shape.end() - 2});
    step.shared_b = shared_b;
    step.a_type = a.dtype, step.b_type = b.dtype;
    step.a = place(a), step.b = place(b);
    const View& out = homes_.at(n);
    if ((out.dtype == DType::f32 || options_.vendor) && is_dense(out)) {
      step.out = place(out);
      step.out_type = out.dtype;
      program_.steps.push_back(std::move(step));
      return;
    }
    // The product is f32; another type, or a place with gaps, takes a copy.
    int index = temporary(element_count(n->type.shape) * Dim(4));
    View result = dense_view({BufferRef::temporary, index}, {DType::f32, n->type.shape});
    step.out = place(result);
    program_.steps.push_back(std::move(step));
    copy(result, out);
  }

  HeadPlace heads(const View& view, const Node* node) {
    if (view.scaled() || !(view.strides[3] == Dim(1) || view.shape[3] == Dim(1)))
      throw NeedsMemory{node, resident_.contains(node)};
    return {place(view), view.strides[0], view.strides[1], view.strides[2]};
  }

  void emit_attention(const Node* n) {
    const auto& a = n->attrs.as<AttentionAttrs>();
    AttentionStep step;
    Value q = n->inputs[0], k = n->inputs[1], v = n->inputs[2];
    step.b = q.dim(0), step.queries = q.dim(1), step.heads = q.dim(2), step.d = q.dim(3), step.keys = k.dim(1);
    step.scale = a.scale, step.causal = a.causal;
    View views[3];
    for (size_t i = 0; i < 3; ++i) {
      views[i] = view_of(n->inputs[i].node(), residents());
      if (views[i].dtype != q.dtype()) throw NeedsMemory{n->inputs[i].node()};
    }
    step.q = heads(views[0], q.node()), step.k = heads(views[1], k.node()), step.v = heads(views[2], v.node());
    step.in = q.dtype();
    if (n->inputs.size() > 3) {
      Value bias = n->inputs[3];
      View view = copyable(bias.node());
      if (view.dtype != DType::f32) view = copied(view, DType::f32);
      if (view.scaled()) throw NeedsMemory{bias.node()};
      // Broadcast by stride 0 along axes of size 1.
      size_t missing = 4 - view.shape.size();
      auto stride = [&](size_t axis) -> Dim {
        if (axis < missing || view.shape[axis - missing] == Dim(1)) return 0;
        return view.strides[axis - missing];
      };
      step.biased = true;
      step.bias = {place(view), stride(0), stride(2), stride(1)};
      step.bias_key_stride = stride(3);
      if (!(stride(3) == Dim(0) || stride(3) == Dim(1))) throw NeedsMemory{bias.node()};
    }
    const View& out = homes_.at(n);
    step.out = heads(out, n);
    step.out_type = out.dtype;
    program_.steps.push_back(std::move(step));
  }

  void emit_group_stats(const Node* n) {
    const auto& a = n->attrs.as<GroupNormAttrs>();
    auto [x, stride] = rows_of(n->inputs[0]);
    GroupStatsStep step;
    Value v = n->inputs[0];
    step.n = v.dim(0);
    step.channels = v.dim(-1).constant();
    step.pixels = element_count({v.shape().begin() + 1, v.shape().end() - 1});
    step.groups = a.groups, step.epsilon = a.epsilon, step.type = x.dtype, step.x = place(x), step.pixel_stride = stride;
    Value in[2] = {n->inputs[1], n->inputs[2]};
    Place places[2];
    for (int i = 0; i < 2; ++i) {
      const Node* at = in[i].node();
      if (options_.vendor && weight_rows(in[i])) {
        places[i] = {{BufferRef::weight, rows_slot(*weight_rows(in[i]), DType::f32)}, 0};
        continue;
      }
      if (!home(at) || home(at)->dtype != DType::f32) {
        if (at->op != &cast_op) throw NeedsMemory{at};
        throw_unless_resident(at);
      }
      places[i] = place(*home(at));
    }
    step.gamma = places[0], step.beta = places[1], step.out = place(homes_.at(n));
    if (n->inputs.size() > 3) {
      auto [addend, addend_stride] = rows_of(n->inputs[3]);
      step.adds = true;
      step.addend = place(addend), step.addend_stride = addend_stride, step.addend_type = addend.dtype;
    }
    program_.steps.push_back(std::move(step));
  }
  void throw_unless_resident(const Node* n) {
    if (!resident_.contains(n)) throw NeedsMemory{n};
  }

  void emit_embedding(const Node* n) {
    EmbeddingStep step;
    const Node* weight = weight_of(n->inputs[0]);
    View table = weight ? *home(weight) : dense_operand(n->inputs[0]);
    if (weight && options_.vendor)
      table = dense_view({BufferRef::weight, rows_slot({{weight}}, n->type.dtype)}, {n->type.dtype, weight->type.shape});
    View indices = dense_operand(n->inputs[1]);
    SINTER_ASSERT(indices.dtype == DType::i64);
    step.count = element_count(indices.shape);
    step.rows = table.shape[0];
    step.width = table.shape[1].constant();
    step.table_type = table.dtype, step.out_type = n->type.dtype;
    step.table = place(table), step.indices = place(indices), step.out = place(homes_.at(n));
    program_.steps.push_back(std::move(step));
  }

  void emit_concat(const Node* n) {
    for (size_t p = 0; p < n->inputs.size(); ++p) {
      View target = part_of_concat(n, p);
      const Node* part = n->inputs[p].node();
      const Node* written = below_reshapes(part);
      auto at = homes_.find(written);
      auto place = reshaped(target, written->type.shape);
      bool there = place && at != homes_.end() && resident_.contains(written) && at->second.buffer == place->buffer &&
                   at->second.offset == place->offset && at->second.strides == place->strides;
      if (!there) copy(part, target);
    }
  }

  void emit_call(const Node* n) {
    const auto& function = *n->attrs.as<CallAttrs>().function;
    CallStep step;
    step.callee = callees_++;
    for (Value input : n->inputs) {
      View view = copyable(input.node());
      // A callee reads its parameters from the beginning of a buffer, dense.
      if (!is_dense(view) || !(view.offset == Dim(0)) || view.dtype != input.dtype()) {
        view = copied(view, input.dtype());
      }
      step.arguments.push_back(view.buffer);
    }
    std::vector<int>& results = call_results_[n];
    results.clear();
    for (size_t i = 0; i < function.graph.outputs().size(); ++i) {
      const Type& type = function.graph.outputs()[i].value->type;
      View view =
          i == 0 ? homes_.at(n)
                 : dense_view({BufferRef::temporary, temporary(element_count(type.shape) * Dim(byte_size(type.dtype)))}, type);
      results.push_back(view.buffer.index);
      step.results.push_back(view.buffer);
    }
    program_.steps.push_back(std::move(step));
  }

  void find_lifetimes();

  const Graph& graph_;
  const LowerOptions& options_;
  std::vector<Value> order_;
  std::unordered_map<const Node*, std::vector<const Node*>> users_;  // null: the graph's output
  std::unordered_map<const Node*, int> ordinals_, inputs_;
  std::unordered_set<const Node*> in_memory_, dense_;  // what earlier attempts found out

  Program program_;
  std::unordered_set<const Node*> resident_;
  std::unordered_map<const Node*, std::set<const Node*>> roots_;
  std::unordered_map<const Node*, View> homes_;
  std::unordered_map<const Node*, const Node*> fused_, fused_call_;  // call -> root, root -> call
  std::unordered_set<const Node*> prologue_;                         // convolutions
  std::unordered_map<const Node*, Tail> tails_;                      // of vendor calls
  std::map<WeightSlot, int> slots_;
  std::vector<Quantised> quantised_;
  std::unordered_map<const Node*, std::vector<int>> call_results_;
  int callees_ = 0;
};

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

}  // namespace

Program lower(const Graph& graph, const LowerOptions& options) { return Lowering(graph, options).run(); }

std::string kernel_symbol(size_t kernel) { return "sinter_kernel_" + std::to_string(kernel); }

}  // namespace sinter
