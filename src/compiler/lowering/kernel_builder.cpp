#include "compiler/lowering/kernel_builder.h"

#include <algorithm>

#include "graph/formula.h"
#include "graph/ops.h"

namespace sinter {
namespace {

bool is_one(const Dim& dim) { return dim.is_constant() && dim.constant() == 1; }

/// Stands for the tile's buffer while views of it are formed.
constexpr BufferRef kTile{BufferRef::temporary, -1};
/// The same for the index ramp of an iota.
constexpr BufferRef kRamp{BufferRef::temporary, -2};

using Chain = std::vector<const Node*>;  // movement ops to apply, outermost first

struct Operand {
  View view;  // over the kernel's space
  bool tile = false, written = false;
};

class Builder {
 public:
  Builder(const Node* root, const Residents& residents) : root_(root), residents_(residents), space_(root->type.shape) {
    if (space_.empty()) space_.push_back(1);
    if (is_one(space_.back())) widen_for_reductions();
  }

  BuiltKernel build(const std::optional<View>& out) {
    int value = emit(root_, {});
    Operand target;
    target.written = true;
    target.tile = !out;
    target.view = in_space(out ? *out : dense_view(kTile, root_->type));  // the one column of reduced rows is not their width
    int operand = add_operand(std::move(target));
    step({KernelStep::store, {}, value, -1, -1, operand, 0});
    return finish();
  }

 private:
  /// A root [.., 1] over reductions of [.., k] iterates over [.., k].
  void widen_for_reductions() {
    std::vector<const Node*> todo{root_};
    while (!todo.empty()) {
      const Node* n = todo.back();
      todo.pop_back();
      if (n != root_ && residents_.home(n)) continue;
      if (n->op == &reduce_sum_op || n->op == &reduce_max_op) {
        space_.back() = n->inputs[0].dim(-1);
        return;
      }
      if (n == root_ || is_elementwise(*n->op) || n->op == &cast_op || n->op == &swap_pairs_op || is_movement(*n))
        for (Value input : n->inputs) todo.push_back(input.node());
    }
  }

  int step(KernelStep s) {
    kernel_.body.push_back(s);
    return int(kernel_.body.size()) - 1;
  }
  int constant(double value) { return step({KernelStep::constant, {}, -1, -1, -1, -1, value}); }
  int primitive(Prim prim, int a, int b = -1, int c = -1) { return step({KernelStep::primitive, prim, a, b, c, -1, 0}); }

  int add_operand(Operand operand) {
    operands_.push_back(std::move(operand));
    return int(operands_.size()) - 1;
  }

  /// `view` through the movement ops of `chain`, innermost first.
  View apply(const Node* node, View view, const Chain& chain) const {
    const Node* below = node;
    for (size_t i = chain.size(); i-- > 0;) {
      auto next = moved(*chain[i], view);
      if (!next) throw NeedsMemory{below, below == node && node != residents_.tile};
      view = std::move(*next);
      below = chain[i];
    }
    return view;
  }

  /// What resizes among the movement ops of `chain`: channels, its own columns, it leaves as they are.
  static const Node* scaling(const Chain& chain) {
    auto resizes = [](const Node* n) { return n->op == &resize_nearest_op; };
    return *std::find_if(chain.begin(), chain.end(), resizes);
  }

  /// A view in the kernel's space: of the root's shape, or with one column for the whole row.
  View in_space(View view) const {
    if (view.shape.empty()) view.shape = {1}, view.strides = {Dim(0)};
    if (!(view.shape.back() == space_.back())) {
      SINTER_ASSERT(is_one(view.shape.back()));
      view.strides.back() = 0;
      view.shape.back() = space_.back();
    }
    SINTER_ASSERT(view.shape == space_);
    return view;
  }

  int load(const Node* node, const View& view, bool tile, const Chain& chain) {
    Operand operand{in_space(apply(node, view, chain)), tile, false};
    if (operand.view.scaled_columns()) throw NeedsMemory{scaling(chain)};
    for (size_t i = 0; i < operands_.size(); ++i) {
      const View& v = operands_[i].view;
      if (v.buffer == operand.view.buffer && v.offset == operand.view.offset && v.strides == operand.view.strides &&
          v.scales == operand.view.scales)
        return loads_.at(int(i));
    }
    int index = add_operand(std::move(operand));
    return loads_[index] = step({KernelStep::load, {}, -1, -1, -1, index, 0});
  }

  int emit(const Node* node, const Chain& chain) {
    std::vector<const Node*> key{node};
    key.insert(key.end(), chain.begin(), chain.end());
    if (auto at = seen_.find(key); at != seen_.end()) return at->second;
    int value = emit_new(node, chain);
    seen_[key] = value;
    return value;
  }

  int emit_new(const Node* node, const Chain& chain) {
    if (node == residents_.tile) return load_tile(node, chain);
    if (node != root_)
      if (auto home = residents_.home(node)) return load(node, *home, false, chain);
    if (node->op == &constant_op) {
      Tensor value = node->attrs.as<ConstantAttrs>().value.to(DType::f64);
      SINTER_ASSERT(value.count() == 1);
      return constant(*reinterpret_cast<const double*>(value.data()));
    }
    if (is_movement(*node)) {
      Chain longer = chain;
      longer.push_back(node);
      return emit(node->inputs[0].node(), longer);
    }
    if (node->op == &cast_op) {
      if (auto home = residents_.home(node->inputs[0].node())) return load(node, *home, false, chain);
      return emit(node->inputs[0].node(), chain);
    }
    if (is_elementwise(*node->op)) return emit_formula(node, chain);
    if (node->op == &swap_pairs_op) return emit_swap(node, chain);
    if (node->op == &iota_op) return emit_ramp(node, chain);
    if (node->op == &reduce_sum_op || node->op == &reduce_max_op) return emit_reduction(node, chain);
    throw NeedsMemory{node};
  }

  int load_tile(const Node* node, const Chain& chain) {
    View view = in_space(apply(node, dense_view(kTile, node->type), chain));
    auto stride = row_stride(view);
    Dim width = Dim(residents_.tile_columns * residents_.parts);
    bool rows_match = stride && (*stride == width || element_count({space_.begin(), space_.end() - 1}) == Dim(1));
    if (!rows_match || !(space_.back() == Dim(residents_.tile_columns)) || !view.offset.is_constant() ||
        view.offset.constant() % residents_.tile_columns != 0)
      throw NeedsMemory{node};
    return load(node, dense_view(kTile, node->type), true, chain);
  }

  /// Only where the pairs are pairs of the kernel's own columns.
  int emit_swap(const Node* node, const Chain& chain) {
    View view = apply(node, dense_view(kRamp, node->type), chain);
    auto even = [](const Dim& dim) { return exact_div(dim, 2).has_value(); };
    bool fits =
        !view.scaled() && view.shape == space_ && view.strides.back() == Dim(1) && even(space_.back()) && even(view.offset);
    for (size_t d = 0; fits && d + 1 < space_.size(); ++d) fits = is_one(space_[d]) || even(view.strides[d]);
    if (!fits) throw NeedsMemory{node};
    return step({KernelStep::swap_pairs, {}, emit(node->inputs[0].node(), chain), -1, -1, -1, 0});
  }

  int emit_formula(const Node* node, const Chain& chain) {
    std::vector<int> arguments;
    for (Value input : node->inputs) arguments.push_back(emit(input.node(), chain));
    std::unordered_map<const Expr::Term*, int> terms;
    return emit_expr(formula_of(*node->op).body, arguments, terms);
  }

  int emit_expr(const Expr& e, const std::vector<int>& arguments, std::unordered_map<const Expr::Term*, int>& terms) {
    if (e->kind == Expr::Term::argument) return arguments[size_t(e->index)];
    if (auto at = terms.find(e.get()); at != terms.end()) return at->second;
    int value;
    if (e->kind == Expr::Term::constant) {
      value = constant(e->value);
    } else {
      int in[3] = {-1, -1, -1};
      for (size_t i = 0; i < e->inputs.size(); ++i) in[i] = emit_expr(e->inputs[i], arguments, terms);
      value = primitive(e->prim, in[0], in[1], in[2]);
    }
    return terms[e.get()] = value;
  }

  int emit_ramp(const Node* node, const Chain& chain) {
    const auto& attrs = node->attrs.as<IotaAttrs>();
    View ramp{kRamp, DType::f32, 0, attrs.shape, std::vector<Dim>(attrs.shape.size(), Dim(0)), {}};
    ramp.strides[size_t(attrs.axis)] = 1;
    View view = in_space(apply(node, ramp, chain));
    if (view.scaled() || !view.offset.is_constant()) throw NeedsMemory{node};
    int sum = constant(double(view.offset.constant()));
    for (size_t d = 0; d < space_.size(); ++d) {
      if (view.strides[d] == Dim(0)) continue;
      if (!view.strides[d].is_constant()) throw NeedsMemory{node};
      bool column = d + 1 == space_.size();
      if (!column) indexed_.push_back(d);
      int index = step({column ? KernelStep::column_index : KernelStep::row_index, {}, -1, -1, -1, int(d), 0});
      sum = primitive(Prim::add, sum, primitive(Prim::multiply, index, constant(double(view.strides[d].constant()))));
    }
    return sum;
  }

  int emit_reduction(const Node* node, const Chain& chain) {
    Value x = node->inputs[0];
    // Only a reduction of this kernel's own rows can be made in it.
    View row = apply(node, dense_view(kRamp, node->type), chain);
    bool fits = x.shape() == space_ && !row.scaled() && row.shape.size() == space_.size() &&
                (is_one(row.shape.back()) || row.strides.back() == Dim(0));
    Dim stride = 1;
    for (size_t d = space_.size() - 1; fits && d-- > 0;) {
      fits = is_one(space_[d]) || row.strides[d] == stride;
      stride = stride * space_[d];
    }
    if (!fits) throw NeedsMemory{node};
    int value = emit(x.node(), {});
    return step({node->op == &reduce_sum_op ? KernelStep::reduce_sum : KernelStep::reduce_max, {}, value, -1, -1, -1, 0});
  }

  /// Joins neighbouring outer dims that every operand walks as one, and fills in the addressing.
  BuiltKernel finish() {
    size_t columns = space_.size() - 1;
    std::vector<std::vector<size_t>> groups;  // of axes, outermost first
    for (size_t d = 0; d < columns; ++d) {
      bool indexed = std::find(indexed_.begin(), indexed_.end(), d) != indexed_.end();
      if (is_one(space_[d]) && !indexed) continue;
      if (!groups.empty() && joins(groups.back().back(), d))
        groups.back().push_back(d);
      else
        groups.push_back({d});
    }
    BuiltKernel built;
    KernelUse& use = built.use;
    use.kernel = -1;
    use.columns = space_[columns];
    for (const auto& group : groups) {
      Dim size = 1;
      for (size_t d : group) size = size * space_[d];
      use.outer.push_back(size);
    }
    if (groups.empty()) use.outer.push_back(1);
    kernel_.rank = int(use.outer.size());
    for (const Operand& operand : operands_) describe(operand, groups, use);
    for (KernelStep& s : kernel_.body)
      if (s.kind == KernelStep::row_index)
        for (size_t g = 0; g < groups.size(); ++g)
          if (groups[g].back() == size_t(s.operand)) {
            s.operand = int(g);
            break;
          }
    built.kernel = std::move(kernel_);
    return built;
  }

  bool joins(size_t outer, size_t inner) const {
    for (size_t d : indexed_)
      if (d == outer || d == inner) return false;
    for (const Operand& o : operands_) {
      if (o.tile) continue;
      if (o.view.scaled() && (!(o.view.scales[outer] == View::Scale{}) || !(o.view.scales[inner] == View::Scale{}))) return false;
      if (!(o.view.strides[outer] == o.view.strides[inner] * space_[inner])) return false;
    }
    return true;
  }

  void describe(const Operand& operand, const std::vector<std::vector<size_t>>& groups, KernelUse& use) {
    const View& view = operand.view;
    KernelOperand described;
    described.dtype = operand.tile ? (operand.written ? view.dtype : DType::f32) : view.dtype;
    described.written = operand.written;
    Dim column = view.strides.back();
    described.column = column == Dim(1) || (is_one(view.shape.back()) && is_one(use.columns)) ? ColumnAccess::dense
                       : column == Dim(0) || is_one(view.shape.back())                        ? ColumnAccess::broadcast
                                                                                              : ColumnAccess::strided;
    OperandUse used;
    used.buffer = view.buffer;
    used.tile = operand.tile;
    used.offset = view.offset;
    used.column_stride = column;
    bool scaled = false;
    for (const auto& group : groups) {
      used.strides.push_back(view.strides[group.back()]);
      used.scales.push_back(view.scaled() ? view.scales[group.back()] : View::Scale{});
      scaled = scaled || !(used.scales.back() == View::Scale{});
    }
    if (groups.empty()) used.strides.push_back(0), used.scales.push_back({});
    if (!scaled) used.scales.clear();
    described.row = operand.tile ? RowAccess::flat : scaled ? RowAccess::scaled : RowAccess::dims;
    kernel_.operands.push_back(described);
    use.operands.push_back(std::move(used));
  }

  const Node* root_;
  const Residents& residents_;
  Shape space_;
  RowKernel kernel_;
  std::vector<Operand> operands_;
  std::map<int, int> loads_;
  std::map<std::vector<const Node*>, int> seen_;
  std::vector<size_t> indexed_;  // axes whose index the body uses
};

}  // namespace

BuiltKernel build_kernel(const Node* root, const Residents& residents, const std::optional<View>& out) {
  return Builder(root, residents).build(out);
}

View view_of(const Node* node, const Residents& residents) {
  if (auto home = residents.home(node)) return *home;
  if (!is_movement(*node)) throw NeedsMemory{node};
  View below = view_of(node->inputs[0].node(), residents);
  auto view = moved(*node, below);
  if (!view) throw NeedsMemory{node->inputs[0].node(), residents.home(node->inputs[0].node()).has_value()};
  return *view;
}

}  // namespace sinter
